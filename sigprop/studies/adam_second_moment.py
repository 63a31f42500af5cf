"""Adam at its first steps: the initialization sets the scale of gradients, hence nu, the first update, and where epsilon takes over."""

from __future__ import annotations

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
from sigprop.predict import adam_second_moment
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees
from sigprop.studies.study import initializer
from sigprop.studies.training import cross_entropy

_ACTS = {"relu": nnx.relu, "tanh": nnx.tanh}


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
    seeds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, tuple(_ACTS))
        check_number("epsilon", self.epsilon, above=0.0)
        for name in ("width", "depth", "steps", "minibatch"):
            check_whole(name, getattr(self, name))
        check_whole("examples", self.examples, self.minibatch)


PRESETS = {"quick": Config(), "paper": Config(width=512, depth=4, examples=32, minibatch=8, steps=10, seeds=512)}


_MARGINS = {"update": 0.05, "relative": 0.1, "noise": 0.3}


def _data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    return inputs.load("digits", config.examples, None, 2), inputs.digit_labels()[:config.examples]


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``parameter``: E[g²] of the batch and of a minibatch, ``noise``, what it adds, nu_hat after the steps, the mean square of the
    first update and ``relative``, this over that of the weights (0 where they are zero), predicted and measured with optax;
    ``starved``, whether epsilon rules the steps, at 1e-8 and at the config's."""
    x, labels = _data(config)
    net = _network(config, config.assumed or config.init, x)
    asked = partial(adam_second_moment, net, cross_entropy, (x, labels), batch_size=config.minibatch)
    small, large = asked(steps=config.steps), asked(steps=config.steps, eps=config.epsilon)
    paths = list(small)
    found = frame.drawn({"draw": range(config.seed, config.seed + config.seeds)}, partial(_held, config), out, "adam_second_moment",
                        dict.fromkeys(("full", "minibatch", "noise", "nu_hat", "update", "relative"), ("parameter",)))
    mean, error = found.mean("draw"), found.std("draw", ddof=1) / config.seeds**0.5
    predicted = {"full": [small[p].mean_square for p in paths], "minibatch": [small[p].second_moment for p in paths],
                 "noise": [small[p].noise for p in paths], "relative": [_finite(small[p].relative_update) ** 2 for p in paths],
                 "nu_hat": [small[p].nu_hat for p in paths], "update": [small[p].update**2 for p in paths]}
    columns = {name: ("parameter", np.array(values)) for name, values in predicted.items()}
    return xr.Dataset(
        columns | {f"{n}_measured": mean[n] for n in predicted} | {f"{n}_stderr": error[n] for n in predicted}
        | {"starved": (("epsilon", "parameter"), np.array([[one[p].starved for p in paths] for one in (small, large)], float))},
        {"parameter": paths, "epsilon": [1e-8, config.epsilon]},
        {"init": config.init, "assumed": config.assumed or config.init, "steps": config.steps})


def _finite(number: float) -> float:
    return number if np.isfinite(number) else 0.0


def _network(config: Config, init: str, x: np.ndarray) -> Network:
    widths = [x.shape[1], *[config.width] * config.depth, 10]
    return network(lambda rngs: nn.MLP(widths, kernel_init=initializer(init), act=_ACTS[config.activation], rngs=rngs), x)


def _held(config: Config, draw: Any) -> dict[str, Any]:
    """What one draw of the parameters makes of the real optimizer: means over the entries of each parameter."""
    try:
        import optax
    except ImportError as error:
        raise MissingDependency("Adam's real state needs optax: pip install 'sigprop[studies]'") from error
    (x, labels), key = _data(config), frame.draw_key(draw)
    net = _network(config, config.init, x)
    params, rule = net.init(key), optax.adam(1e-3)

    def gradients(chosen: Any) -> dict[str, Any]:
        return loss_gradients(net, cross_entropy, params, (jnp.asarray(x)[chosen],), (jnp.asarray(labels)[chosen],))

    def drawn(step: int) -> dict[str, Any]:
        return gradients(jax.random.choice(jax.random.fold_in(key, step), config.examples, (config.minibatch,), replace=False))

    first = drawn(0)
    update, state = rule.update(first, rule.init(first))
    for step in range(1, config.steps):
        _, state = rule.update(drawn(step), state)
    corrected = optax.tree.bias_correction(state[0].nu, 0.999, state[0].count)  # type: ignore[index]

    def squares(tree: Any) -> Any:
        return jnp.stack([jnp.mean(v**2) for v in tree.values()])

    full, minibatch, moved = (squares(tree) for tree in (gradients(np.arange(config.examples)), first, update))
    weights = squares(dict(zip(net.trained_paths, jax.tree.leaves(params), strict=True)))
    return {"full": full, "minibatch": minibatch, "noise": minibatch - full, "update": moved,
            "relative": moved / jnp.where(weights > 0, weights, jnp.inf), "nu_hat": jnp.stack([jnp.mean(v) for v in corrected.values()])}


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
    return [*lines, above("least E[g²] of a minibatch over that of the batch", 1, float((found.minibatch / found.full).min()), 0),
            frame.same("parameters whose steps epsilon = 1e-8 rules", 0, float(found.starved[0].sum()), 0),
            frame.same(f"share of them that epsilon = {float(found.epsilon[1]):g} rules", 1, float(found.starved[1].mean()), 0)]


def draw(found: xr.Dataset) -> Any:
    """The root of nu_hat by parameter."""
    figure, (axes,) = drawing.panels()
    where = np.arange(found.sizes["parameter"])
    size = np.sqrt(found.nu_hat_measured)
    drawing.curve(axes, where, np.sqrt(found.nu_hat), size, found.nu_hat_stderr / size / 2, found.attrs["init"], 0)
    axes.set_xticks(where, [str(p).replace("layers/", "") for p in found.parameter.values], rotation=60, ha="right")
    drawing.labelled(axes, "parameter", r"$\sqrt{\hat\nu}$", "y")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
