"""``sigprop study`` and ``sigprop figures``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sigprop.cli.app import app, errors
from sigprop.cli.model import settings
from sigprop.errors import InvalidInput


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
    configs = {one: results.configured(one, preset, settings(set or [], "--set")) for one in names}
    good = True
    with executors.scheduled(executor) if executor else nullcontext():
        for one, config in configs.items():
            with errors.status(one):
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
        with errors.status(name):
            places = figures.redrawn(data / name, out)
        print(*places, sep="\n", flush=True)
    return 0
