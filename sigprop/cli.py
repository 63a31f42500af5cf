"""The ``sigprop`` command."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import flax.linen as nn
import jax
from cyclopts import Parameter
from flax import nnx
from rich.console import Console

from sigprop.errors import InvalidInput, SigpropError
from sigprop.inputs import load
from sigprop.network import Network, network
from sigprop.report import Report, report

app = cyclopts.App(name="sigprop", help="Signal propagation at initialization of Flax models.")
_errors = Console(stderr=True)


@app.command(name="report")
def report_command(
    target: str, /, *,
    input: Annotated[list[str] | None, Parameter(help="digits, photo, tokens or FILE.npy; repeat for several inputs", negative=())] = None,
    shape: Annotated[str, Parameter(help="shape of one example of digits, photo, tokens or a file, such as 8,8,1")] = "",
    examples: Annotated[int, Parameter(help="examples in the batch")] = 4,
    vocabulary: Annotated[int, Parameter(help="number of different tokens")] = 64,
    option: Annotated[list[str] | None, Parameter(help="keyword of the model's call, such as train=False; may be repeated",
                                                  negative=())] = None,
    method: Annotated[str, Parameter(help="method of the model to call")] = "__call__",
    seeds: Annotated[int, Parameter(help="draws of the parameters to measure on")] = 64,
    backward: Annotated[bool, Parameter(help="predict and measure gradients too")] = True,
    html: Annotated[Path | None, Parameter(help="write the report as one page")] = None,
    png: Annotated[Path | None, Parameter(help="write the figure")] = None,
    json: Annotated[Path | None, Parameter(help="write all numbers")] = None,
    rows: Annotated[int | None, Parameter(help="fold unremarkable rows of longer tables")] = None,
    strict: Annotated[bool, Parameter(help="exit with status 1 when a problem is found", negative=())] = False,
) -> int:
    """Predict a model's signal propagation at initialization, measure it, and say what is wrong.

    Exit status: 0; 1 when a problem is found and --strict is given; 2 for bad input or a model that cannot be predicted; 3 for a defect
    of sigprop itself.

    Parameters
    ----------
    target
        PATH.py:factory or package.module:factory. The factory is a callable rngs -> nnx.Module, a Flax module (linen or nnx), a linen
        class that needs no arguments, or a function without arguments that returns one of these.
    """
    _writable({"--html": html, "--png": png, "--json": json})
    if rows is not None and rows < 1:
        raise InvalidInput(f"--rows: {rows} given; at least 1 is needed")
    arrays = [load(name, examples, _shape(shape), vocabulary) for name in input or ["digits"]]
    with _errors.status("predicting and measuring"):
        net = _network(find(target), arrays, method, _options(option or []))
        made = report(net, *arrays, seeds=seeds, backward=backward, name=target.rpartition(":")[2])
    console = Console()
    console = console if console.is_terminal else Console(width=140)
    console.print(made.table(rows))
    _write(made, html, png, json)
    return int(strict and not made.ok)


@app.command(name="study")
def study_command(
    name: str, /, *,
    preset: Annotated[str, Parameter(help="quick or paper")] = "quick",
    set: Annotated[list[str] | None, Parameter(help="field of the study's config, such as seeds=64; may be repeated", negative=())] = None,
    out: Annotated[Path | None, Parameter(help="folder for results (NAME.nc) and figures (NAME.pdf)")] = None,
    resume: Annotated[bool, Parameter(help="go on with what is in --out", negative=())] = False,
    executor: Annotated[str, Parameter(help="dask://HOST:PORT, a cluster whose workers compute the points; this process by default")] = "",
) -> int:
    """Carry out a named study, or all of them, and check what is claimed about it.

    One line for each claim: PASS or FAIL, what is expected, and what was found ± its error. Exit status: 0; 1 where a claim fails; 2 for
    bad input.

    Parameters
    ----------
    name
        of the study, such as depthwise_conv, or all.
    """
    from sigprop.studies import executors, results  # needs flax.nnx

    if resume and out is None:
        raise InvalidInput("--resume: there is nothing to go on with; give the folder as --out")
    names = results.NAMES if name == "all" else (name,)
    configs = {one: results.configured(one, preset, _options(set or [], "--set")) for one in names}
    good = True
    with executors.scheduled(executor) if executor else nullcontext():
        for one, config in configs.items():
            with _errors.status(one):
                found = results.carried_out(one, config, out, resume)
            for claim in results.named(one).claims(found):
                good &= claim.passed
                print(f"{claim}  [{one}]", flush=True)
            if out is not None:
                results.named(one).draw(found).savefig(out / f"{one}.pdf")
    return int(not good)


@app.command(name="figures")
def figures_command(
    *names: str,
    data: Annotated[Path, Parameter(help="folder with NAME/data.nc")] = Path("paper_figures"),
    out: Annotated[Path, Parameter(help="folder for NAME.pdf and NAME.png")] = Path("out/figures"),
) -> int:
    """Draw figures for print from stored numbers: of studies, and classic ones.

    Exit status: 0; 2 for bad input, and where a figure that is named has no numbers.

    Parameters
    ----------
    names
        of figures, such as depthwise_conv or phase_diagram; all that have numbers by default.
    """
    from sigprop import figures  # needs flax.nnx

    if not data.is_dir():
        raise InvalidInput(f"--data: there is no directory {data}; it is in the repository, beside the package")
    if out.exists() and not out.is_dir():
        raise InvalidInput(f"--out: {out} is not a directory")
    for name in names:
        figures.named(name)
    for name in names or figures.NAMES:
        if not names and not (data / name / figures.DATA).is_file():
            print(f"{name}: no numbers yet; compute them with python {data / name / 'run.py'}", file=sys.stderr)
            continue
        with _errors.status(name):
            places = figures.redrawn(data / name, out)
        print(*places, sep="\n", flush=True)
    return 0


def _writable(paths: dict[str, Path | None]) -> None:
    """Refuse before the work what would fail after it."""
    for name, path in paths.items():
        if path is not None and not path.resolve().parent.is_dir():
            raise InvalidInput(f"{name}: there is no directory {path.resolve().parent}")
        if path is not None and path.is_dir():
            raise InvalidInput(f"{name}: {path} is a directory")
    if paths["--png"] and importlib.util.find_spec("matplotlib") is None:
        raise InvalidInput("--png: figures need matplotlib: pip install 'sigprop[figures]'")


def _write(made: Report, html: Path | None, png: Path | None, json: Path | None) -> None:
    if html:
        made.to_html(html)
    if png:
        made.plot().savefig(png, dpi=150, format="png")
    if json:
        made.to_json(json)


def _shape(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(n) for n in text.split(",")) if text else None
    except ValueError as error:
        raise InvalidInput(f"--shape: '{text}' is not a list of integers such as 8,8,1") from error


def _options(given: Sequence[str], flag: str = "--option") -> dict[str, Any]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInput(f"{flag}: '{text}' is not of the form name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _network(model: Any, arrays: Sequence[Any], method: str, options: dict[str, Any]) -> Network:
    return model if isinstance(model, Network) else network(model, *arrays, method=method, **options)


def find(target: str) -> Any:
    """The model that ``target`` names, ready for :func:`sigprop.network`.

    Raises:
        InvalidInput: naming what is missing or what raised.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise InvalidInput(f"TARGET: '{target}' is not of the form PATH.py:factory or package.module:factory")
    found: Any = _module(place)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidInput(f"TARGET: {place} has no '{attribute}'")
        found = getattr(found, name)
    return _model(found, target)


def _module(place: str) -> Any:
    try:
        if not place.endswith(".py"):
            sys.path.insert(0, "")
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise InvalidInput(f"TARGET: no file {place}")
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(f"sigprop_target_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses, which linen modules are, look their module up
        spec.loader.exec_module(module)
        return module
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"TARGET: importing {place} raised {type(error).__name__}: {error}") from error


def _model(found: Any, target: str) -> Any:
    if isinstance(found, nn.Module | nnx.Module | Network):
        return found
    if not callable(found):
        raise InvalidInput(f"TARGET: {target} is {type(found).__name__}, neither a Flax module nor a function that makes one")
    needed = [p for p in inspect.signature(found).parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) == 1:
        return (lambda rngs: found(**{needed[0].name: rngs})) if needed[0].kind is needed[0].KEYWORD_ONLY else found
    if needed:
        names = ", ".join(p.name for p in needed)
        raise InvalidInput(f"TARGET: {target} needs the arguments {names}; give a function of rngs alone, or of nothing")
    if isinstance(found, type) and issubclass(found, nnx.Module):
        return lambda rngs: found()
    try:
        made = found()
    except Exception as error:
        raise InvalidInput(f"TARGET: {target}() raised {type(error).__name__}: {error}") from error
    if inspect.isfunction(made) or isinstance(made, type):
        return _model(made, f"{target}()")
    if not isinstance(made, nn.Module | nnx.Module | Network):
        raise InvalidInput(f"TARGET: {target}() returned {type(made).__name__}, not a Flax module")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on ``arguments`` (those of the process by default) and return its exit status."""
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (cyclopts.CycloptsError, SigpropError) as error:
        print(f"sigprop: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        print(f"sigprop: the model failed to run: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 3
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
