"""Commands that predict one thing about a model: fans, gains, attention, Adam, number formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from cyclopts import Parameter
from rich.console import Group
from rich.table import Table

from sigprop.cli.app import app, errors
from sigprop.cli.model import Model, Several, Target
from sigprop.cli.output import Json, show, writable
from sigprop.errors import InvalidInput, hint
from sigprop.inputs import digit_labels
from sigprop.predict import adam_advice, adam_second_moment, attention_entropy, lint, remedy


@app.command(name="lint")
def lint_command(
    target: Target, /, *, model: Model = Model(), json: Json = None,
    epsilons: Annotated[bool, Parameter(help="look for normalizations that divide by their epsilon, which takes a prediction")] = True,
    strict: Annotated[bool, Parameter(help="exit with status 1 when something is found", negative=())] = False,
) -> int:
    """Find initializers that count another fan than that of the operation, or are too small for a normalization's epsilon."""
    writable(json=json)
    arrays = model.arrays()
    with errors.status("checking"):
        found = lint(model.network(target, arrays), *arrays, checks=("fans", "epsilons") if epsilons else ("fans",))
    show(str(found), {"findings": [asdict(f) for f in found], "unchecked": found.unchecked}, json)
    return int(strict and len(found) > 0)


@app.command(name="remedy")
def remedy_command(
    target: Target, /, *, model: Model = Model(), json: Json = None,
    keep: Annotated[Several, Parameter(help="path of a weight to leave as it is; may be repeated")] = None,
    aim: Annotated[str, Parameter(help="forward, critical, backward or mean: what the gains are to keep")] = "forward",
    variance: Annotated[float, Parameter(help="of the output of each weight")] = 1.0,
) -> int:
    """Find the gain of each weight that mends the initialization, and the initializer to paste into the model."""
    writable(json=json)
    arrays = model.arrays()
    with errors.status("predicting"):
        found = remedy(model.network(target, arrays), *arrays, target=aim, variance=variance, keep=tuple(keep or ()))
    layers = [{key: value for key, value in asdict(layer).items() if key != "value"} for layer in found.layers]
    show(str(found), {"aim": aim, "layers": layers, "gains": dict(found.gains)}, json)
    return 0


@app.command(name="attention")
def attention_command(
    target: Target, /, *, model: Model = Model(), json: Json = None,
    seeds: Annotated[int, Parameter(help="draws of the parameters to measure on; 0 for the prediction alone")] = 0,
) -> int:
    """Predict how sharp the attention of every layer and head is at the first step."""
    writable(json=json)
    arrays = model.arrays()
    with errors.status("predicting"):
        found = attention_entropy(model.network(target, arrays), *arrays, seeds=seeds)
    show(_attention(found, seeds > 0), found, json)
    return 0


def _attention(found: xr.Dataset, measured: bool) -> Table:
    table = Table(title="Entropy of attention rows in nats (± standard deviation over parameters)", title_justify="left")
    for name in ("layer", "head", "entropy", *(["measured ± s.e."] if measured else []), "effective keys", "largest weight",
                 "logit variance", "freezes at", "tokens alike"):
        table.add_column(name, justify="left" if name == "layer" else "right", no_wrap=name == "layer")
    for layer in found["layer"].values:
        one = found.sel(layer=layer)
        for head in found["head"].values:
            row = one.sel(head=head)
            if np.isfinite(row.entropy_mean):
                seen = [f"{float(row.measured_entropy_mean):.4f} ± {float(row.measured_entropy_mean_stderr):.1g}"] if measured else []
                table.add_row(str(layer), str(head), f"{float(row.entropy_mean):.4f} ± {float(row.entropy_std):.2g}", *seen,
                              f"{float(row.effective_keys):.2f}", f"{float(row.max_weight):.3f}", f"{float(row.row_variance):.3g}",
                              f"{float(one.freezing_variance):.3g}", f"{float(row.key_correlation):.2f}")
    return table


@app.command(name="adam")
def adam_command(
    target: Target, /, *, model: Model = Model(), json: Json = None,
    loss: Annotated[str, Parameter(help="cross-entropy, of integer targets; or mse, of numbers shaped like the output")] = "cross-entropy",
    targets: Annotated[Path | None, Parameter(help="FILE.npy with the examples' targets on axis 0; those of digits are known")] = None,
    optimizer: Annotated[str, Parameter(help="adam, adamw, rmsprop or adafactor")] = "adam",
    steps: Annotated[int, Parameter(help="steps that have filled the state")] = 1,
    batch_size: Annotated[int | None, Parameter(help="of a minibatch; all examples by default")] = None,
    update_ratio: Annotated[float, Parameter(help="wanted size of the first update, relative to the weights")] = 1e-3,
) -> int:
    """Predict what Adam will hold for each parameter, and advise on epsilon, learning rate and warm-up (adam, adamw)."""
    writable(json=json)
    if loss not in _LOSSES:
        raise InvalidInput(f"--loss: '{loss}' is none of {', '.join(_LOSSES)}{hint(loss, _LOSSES)}")
    arrays = model.arrays()
    wanted = _targets(targets, model, loss)
    with errors.status("predicting"):
        net = model.network(target, arrays)
        found = adam_second_moment(net, _LOSSES[loss], (tuple(arrays), wanted), optimizer=optimizer, steps=steps, batch_size=batch_size)
        advice = adam_advice(found, update_ratio=update_ratio) if optimizer in ("adam", "adamw") else None
    leaves = {path: {k: v for k, v in leaf._asdict().items() if k != "entries"} for path, leaf in found.items()}
    content = {"optimizer": {"name": found.optimizer.name, **found.optimizer.options}, "steps": steps, "parameters": leaves}
    if advice is not None:
        content["advice"] = {"epsilon": advice.epsilon, "learning_rate": advice.learning_rate, "warmup": advice.warmup,
                             "parameters": {path: leaf._asdict() for path, leaf in advice.items()}}
    show(Group(found, *([advice] if advice is not None else [])), content, json)
    return 0


def _cross_entropy(y: Any, labels: Any) -> Any:
    """Mean over examples, and over tokens where there are some, in nats."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), labels[..., None], -1))


_LOSSES: dict[str, Callable[..., Any]] = {"cross-entropy": _cross_entropy, "mse": lambda y, target: jnp.mean((y - target) ** 2)}


def _targets(path: Path | None, model: Model, loss: str) -> np.ndarray:
    if path is not None:
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InvalidInput(f"--targets: {path} is not a readable .npy array: {error}") from error
        if np.ndim(found) == 0 or len(found) < model.examples:
            raise InvalidInput(f"--targets: {path} has shape {np.shape(found)}; one target for each of {model.examples} examples is needed")
        found = found[:model.examples]
    elif model.names == ["digits"]:
        found = digit_labels()[:model.examples]
        found = np.eye(10)[found] if loss == "mse" else found
    else:
        raise InvalidInput("--targets: give the targets of these inputs as FILE.npy; only those of digits are known")
    if loss == "cross-entropy" and not np.issubdtype(found.dtype, np.integer):
        raise InvalidInput(f"--targets: {path} holds {found.dtype}; cross-entropy takes integer labels")
    return found.astype(np.int32 if loss == "cross-entropy" else np.float32)


@app.command(name="precision")
def precision_command(
    target: Target, /, *, model: Model = Model(), json: Json = None,
    dtype: Annotated[Several, Parameter(help="int8, int4, float8_e4m3fn, float8_e5m2, float16, bfloat16; may be repeated")] = None,
    scheme: Annotated[str, Parameter(help="how scales are chosen: mse, absmax or saturation")] = "mse",
    backward: Annotated[bool, Parameter(help="look at gradients too")] = True,
) -> int:
    """Predict what number formats do to every node, weight and gradient: scales, noise, what is clipped or lost."""
    from sigprop.precision import analysis

    writable(json=json)
    arrays = model.arrays()
    with errors.status("predicting"):
        found = analysis.analyze(model.network(target, arrays), *arrays, dtypes=tuple(dtype or analysis.DTYPES), scheme=scheme,
                                 backward=backward)
    show(_formats(found), found, json)
    return 0


def _formats(found: xr.Dataset) -> Group:
    """Signal to quantization noise by node for formats with a scale, shares that a cast loses for those without."""
    names = [str(f) for f in found.format.values]
    scaled = [n for n in names if np.isfinite(found.sqnr.sel(format=n, granularity="tensor")).any()]
    cast = [n for n in names if np.isfinite(found.flushed.sel(format=n)).any()]
    table = Table(title="Signal to quantization noise in dB; share of numbers that a plain cast makes subnormal, zero or infinite",
                  title_justify="left")
    table.add_column("node", no_wrap=True)
    table.add_column("rms", justify="right")
    for name in (*scaled, *(f"{n} lost" for n in cast)):
        table.add_column(name, justify="right")
    for node in found.node.values:
        row = found.sel(node=node)
        noise = [f"{float(row.sqnr.sel(format=n, granularity='tensor')):.1f}" for n in scaled]
        lost = [f"{float(sum(row[v].sel(format=n) for v in ('subnormal', 'flushed', 'overflow'))):.1e}" for n in cast]
        table.add_row(str(node), f"{float(row.rms):.3g}", *noise, *lost)
    if "loss_scale" not in found:
        return Group(table)
    advice = Table("format", "loss scale", "nodes to keep in float32", title="Advice", title_justify="left")
    for name in names:
        kept = [str(n) for n in found.node.values[found.keep_float32.sel(format=name).values.astype(bool)]]
        advice.add_row(name, f"{float(found.loss_scale.sel(format=name)):g}", f"{len(kept)} of {len(found.node)}: {', '.join(kept[:8])}"
                       + (" ..." if len(kept) > 8 else "") if kept else "none")
    return Group(table, advice)
