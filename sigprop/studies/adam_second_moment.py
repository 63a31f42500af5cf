"""Adam at its first steps: the initialization sets the scale of gradients, hence nu, the first update, and where epsilon takes over.

AdamW's nu is Adam's, RMSProp's has no bias correction, Adafactor keeps means over rows and columns and moves by the size of the weights,
Lion moves every entry that has a gradient by the learning rate. Shampoo's factors, sums of G G^T and of G^T G over the steps (Gupta et al.
2018, algorithm 1), have sums of E[g²] over rows and columns of a kernel on their diagonals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import inputs, nn
from sigprop.empirical import loss_gradients
from sigprop.errors import MissingDependency
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.network import Network, network
from sigprop.predict import LeafMoment, adam_second_moment
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees
from sigprop.studies.study import initializer
from sigprop.studies.training import cross_entropy

_ACTS = {"relu": nnx.relu, "tanh": nnx.tanh}
_RATE = 1e-3
_RULES: dict[str, dict[str, Any]] = {"adamw": {}, "rmsprop": {}, "adafactor": {}, "lion": {"weight_decay": 0.0}}  # options of optax


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """A network that classifies scikit-learn's digits, its parameters frozen at initialization.

    Attributes:
        init: of the kernels.
        assumed: of the kernels of which the prediction is made, ``init`` where it is empty.
        activation: ``"tanh"`` or ``"relu"``, whose units have no first update where they are silent on a whole minibatch: the prediction,
            which is for normal gradients, is above the update measured then.
        width, depth: of the hidden layers, and their number.
        examples, minibatch: images, and of them in a minibatch.
        steps: of Adam.
        epsilon: of Adam, beside 1e-8: so large that it rules the steps.
        others: optimizers beside Adam, ``"adamw"``, ``"rmsprop"``, ``"adafactor"`` and ``"lion"``.
    """

    init: str = "he"
    assumed: str = ""
    activation: str = "tanh"
    width: int = 256
    depth: int = 2
    examples: int = 16
    minibatch: int = 4
    steps: int = 5
    epsilon: float = 1.0
    others: tuple[str, ...] = ("adamw", "rmsprop", "adafactor", "lion")
    seeds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, tuple(_ACTS))
        check_number("epsilon", self.epsilon, above=0.0)
        for name in self.others:
            check_choice("others", name, tuple(_RULES))
        for name in ("width", "depth", "steps", "minibatch"):
            check_whole(name, getattr(self, name))
        check_whole("examples", self.examples, self.minibatch)


PRESETS = {"quick": Config(), "paper": Config(width=512, depth=3, examples=32, minibatch=8, steps=8)}


_MARGINS = {"update": 0.05, "step": 0.05, "relative": 0.1, "noise": 0.3}


def _data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    return inputs.load("digits", config.examples, None, 2), inputs.digit_labels()[:config.examples]


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``parameter``: E[g²] of the batch and of a minibatch, ``noise``, what it adds, nu_hat after the steps, the mean square of the
    first update and ``relative``, this over that of the weights (0 where they are zero), predicted and measured with optax;
    ``starved``, whether epsilon rules the steps, at 1e-8 and at the config's; by ``optimizer`` too ``held``, the second moment that it
    holds after the steps (0 for Lion), and the mean square of its first ``step``; diagonals of Shampoo's factors after the steps, ``left``
    ``(pixel)`` of the first kernel and ``right`` ``(label)`` of the last one."""
    x, labels = _data(config)
    net = _network(config, config.assumed or config.init, x)
    asked = partial(adam_second_moment, net, cross_entropy, (x, labels), batch_size=config.minibatch)
    small, large = asked(steps=config.steps), asked(steps=config.steps, eps=config.epsilon)
    paths = list(small)
    dims = {**frame.layers("full", "minibatch", "noise", "nu_hat", "update", "relative", dim="parameter"),
            "held": ("optimizer", "parameter"), "step": ("optimizer", "parameter"), "left": ("pixel",), "right": ("label",)}
    found = frame.drawn({"draw": range(config.seed, config.seed + config.seeds)}, partial(_held, config), out, "adam_second_moment", dims)
    mean, error = found.mean("draw"), found.std("draw", ddof=1) / config.seeds**0.5
    predicted = {"full": [small[p].mean_square for p in paths], "minibatch": [small[p].second_moment for p in paths],
                 "noise": [small[p].noise for p in paths], "relative": [_finite(small[p].relative_update) ** 2 for p in paths],
                 "nu_hat": [small[p].nu_hat for p in paths], "update": [small[p].update**2 for p in paths]}
    columns = {name: ("parameter", np.array(values)) for name, values in predicted.items()} | _others(config, asked, small)
    first, last = _ends(paths)
    columns |= {"left": ("pixel", config.steps * small[first].entries.sum(1)),
                "right": ("label", config.steps * small[last].entries.sum(0))}
    return xr.Dataset(
        columns | {f"{n}_measured": mean[n] for n in columns} | {f"{n}_stderr": error[n] for n in columns}
        | {"starved": (("epsilon", "parameter"), np.array([[one[p].starved for p in paths] for one in (small, large)], float))},
        {"parameter": paths, "epsilon": [1e-8, config.epsilon], "optimizer": list(config.others)},
        {"init": config.init, "assumed": config.assumed or config.init, "steps": config.steps})


def _others(config: Config, asked: Any, adam: Mapping[str, LeafMoment]) -> dict[str, Any]:
    """What the other optimizers hold, and the mean squares of their first steps, ``[optimizer, parameter]``."""
    held, step = [], []
    for name in config.others:
        found = adam if name == "lion" else asked(steps=config.steps, optimizer=name)
        held.append([0.0 if name == "lion" else leaf.nu for leaf in found.values()])
        # every entry moves by the rate, but for those that no example reaches
        step.append([_RATE**2 * np.mean(leaf.entries > 0) if name == "lion" else leaf.update**2 for leaf in found.values()])
    return {"held": (("optimizer", "parameter"), np.array(held)), "step": (("optimizer", "parameter"), np.array(step))}


def _finite(number: float) -> float:
    return number if np.isfinite(number) else 0.0


def _ends(paths: Sequence[str]) -> tuple[str, str]:
    """The first kernel and the last one."""
    kernels = [path for path in paths if path.endswith("kernel")]
    return kernels[0], kernels[-1]


def _network(config: Config, init: str, x: np.ndarray) -> Network:
    widths = [x.shape[1], *[config.width] * config.depth, 10]
    return network(lambda rngs: nn.MLP(widths, kernel_init=initializer(init), act=_ACTS[config.activation], rngs=rngs), x)


def _held(config: Config, draw: Any) -> dict[str, Any]:
    """What one draw of the parameters makes of the real optimizers: means over the entries of each parameter."""
    try:
        import optax
    except ImportError as error:
        raise MissingDependency("the optimizers' real states need optax: pip install 'sigprop[studies]'") from error
    (x, labels), key = _data(config), frame.draw_key(draw)
    net = _network(config, config.init, x)
    params = net.init(key)
    own = dict(zip(net.trained_paths, jax.tree.leaves(params), strict=True))

    def gradients(chosen: Any) -> dict[str, Any]:
        return loss_gradients(net, cross_entropy, params, (jnp.asarray(x)[chosen],), (jnp.asarray(labels)[chosen],))

    def chosen(step: int) -> Any:
        return jax.random.choice(jax.random.fold_in(key, step), config.examples, (config.minibatch,), replace=False)

    drawn = [gradients(chosen(step)) for step in range(config.steps)]
    first, state = _run(optax.adam(_RATE), drawn, own)
    corrected = optax.tree.bias_correction(state[0].nu, 0.999, state[0].count)
    full, minibatch, moved, weights = (_squares(tree) for tree in (gradients(np.arange(config.examples)), drawn[0], first, own))
    runs = [_run(getattr(optax, name)(_RATE, **_RULES[name]), drawn, own) for name in config.others]
    (left, _), (_, right) = (_shampoo([gradient[path] for gradient in drawn]) for path in _ends(net.trained_paths))
    return {"left": jnp.diagonal(left), "right": jnp.diagonal(right),
            "full": full, "minibatch": minibatch, "noise": minibatch - full, "update": moved,
            "relative": moved / jnp.where(weights > 0, weights, jnp.inf), "nu_hat": jnp.stack([jnp.mean(v) for v in corrected.values()]),
            "step": jnp.stack([_squares(step) for step, _ in runs]), "held": jnp.stack([_second(state[0], own) for _, state in runs])}


def _run(rule: Any, gradients: Sequence[Any], params: Any) -> tuple[Any, Any]:
    """The first update, and the state after all; the parameters stay as they are."""
    first, state = rule.update(gradients[0], rule.init(params), params)
    for gradient in gradients[1:]:
        _, state = rule.update(gradient, state, params)
    return first, state


def _shampoo(gradients: Sequence[Any]) -> tuple[Any, Any]:
    """Factors of a kernel ``[rows, columns]``, without the multiple of the unit matrix that they start from."""
    return sum(g @ g.T for g in gradients), sum(g.T @ g for g in gradients)


def _second(state: Any, params: Mapping[str, Any]) -> Any:
    """The second moment that optax holds for each parameter, the mean over its entries."""
    if hasattr(state, "nu"):
        return jnp.stack([jnp.mean(state.nu[path]) for path in params])
    if hasattr(state, "v_row"):  # of a parameter either the factors are kept or all entries, and the other is one zero
        return jnp.stack([jnp.mean(state.v_row[path]) + jnp.mean(state.v[path]) for path in params])
    return jnp.zeros(len(params))


def _squares(tree: Mapping[str, Any]) -> Any:
    return jnp.stack([jnp.mean(v**2) for v in tree.values()])


def claims(found: xr.Dataset) -> list[Claim]:
    """E[g²], nu_hat and the first update are those of optax; minibatches add noise; a large epsilon makes Adam SGD."""
    name = found.attrs["assumed"]
    titles = {"full": "E[g²] of the batch", "minibatch": "E[g²] of a minibatch", "noise": "E[g²] that minibatches add",
              "nu_hat": f"nu_hat after {found.attrs['steps']} steps",
              "update": "first update squared", "relative": "first update over the weights, squared"}
    some = {"parameter": (found.relative > 0).values}  # biases are zero
    lines = []
    for n, title in titles.items():
        theory, mean, error = (found[f"{n}{end}"][some if n == "relative" else {}] for end in ("", "_measured", "_stderr"))
        lines.append(agrees(f"{name}: measured over predicted {title}", theory, mean, error, _MARGINS.get(n, 0.2)))
    for other in found.optimizer.values:
        one = found.sel(optimizer=other)
        for n, title in (("held", f"second moment after {found.attrs['steps']} steps"), ("step", "first update squared")):
            if (one[n] > 0).any():
                lines.append(agrees(f"{name}, {other}: measured over predicted {title}", one[n], one[f"{n}_measured"], one[f"{n}_stderr"],
                                    _MARGINS.get(n, 0.2)))
    for side, title in (("left", "left factor of the first kernel"), ("right", "right factor of the last one")):
        one = found.sel({found[side].dims[0]: (found[side] > 0).values})  # some pixels are the same in all images
        lines.append(agrees(f"{name}, shampoo: measured over predicted diagonal of the {title}", one[side], one[f"{side}_measured"],
                            one[f"{side}_stderr"], 0.3))
    return [*lines, above("least E[g²] of a minibatch over that of the batch", 1, float((found.minibatch / found.full).min()), 0),
            frame.same("parameters whose steps epsilon = 1e-8 rules", 0, float(found.starved[0].sum()), 0),
            frame.same(f"share of them that epsilon = {float(found.epsilon[1]):g} rules", 1, float(found.starved[1].mean()), 0)]


def draw(found: xr.Dataset) -> Any:
    """By parameter the root of Adam's nu_hat, and root mean squares of the first steps of all optimizers."""
    figure, (left, right) = drawing.panels(2)
    where = np.arange(found.sizes["parameter"])
    _roots(left, where, found, "nu_hat", str(found.attrs["init"]), 0)
    _roots(right, where, found, "update", "adam", 0)
    for k, name in enumerate(found.optimizer.values, 1):
        _roots(right, where, found.sel(optimizer=name), "step", str(name), k)
    for axes, label in ((left, r"$\sqrt{\hat\nu}$"), (right, r"first step, rms")):
        axes.set_xticks(where, [str(p).replace("layers/", "") for p in found.parameter.values], rotation=60, ha="right")
        drawing.labelled(axes, "parameter", label, "y")
    return figure


def _roots(axes: Any, x: Any, found: xr.Dataset, column: str, label: str, k: int) -> None:
    size = np.sqrt(found[f"{column}_measured"])
    drawing.curve(axes, x, np.sqrt(found[column]), size, found[f"{column}_stderr"] / size / 2, label, k)


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
