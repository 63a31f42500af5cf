"""Two initializers, two tangent kernels, two learning paths: spectra, and training and test errors against time (Lee et al. 2019)."""

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

from sigprop import dynamics, inputs, nn, spectra
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_whole
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.study import initializer
from sigprop.studies.training import descended, expected_errors
from sigprop.types import Kernel


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks without biases that learn the parity of scikit-learn's digits by full-batch gradient descent.

    Attributes:
        inits: of all kernels, whose learning rate is half the largest one of the first.
        depth, width: hidden layers and their units.
        examples: images to train on, and as many others to test on.
        steps: at which errors are compared, the first one 0.
    """

    inits: tuple[str, ...] = ("he", "xavier")
    depth: int = 2
    width: int = 512
    examples: int = 16
    steps: tuple[int, ...] = (0, 1, 4, 16)
    seeds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "width"):
            check_whole(name, getattr(self, name))
        check_whole("examples", self.examples, 4)


PRESETS = {"quick": Config(), "paper": Config(depth=3, width=512, examples=64, steps=tuple(2**k - 1 for k in range(11)), seeds=32)}


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``init``: ``spectrum`` ``(index)`` of the tangent kernel of the training images; mean squared errors ``(part, step)`` of training
    and test, ``predicted`` by the kernels, with all fluctuations over draws, and ``measured``."""
    x, y = _data(config)
    train, test = x[:config.examples], x[config.examples:]
    kernels = {init: infinite_kernel(_network(config, init, x)) for init in config.inits}
    rate = 0.5 * float(dynamics.max_learning_rate(_ntk(kernels[config.inits[0]](train))))
    theory = {init: _predicted(config, kernel, train, test, y, rate) for init, kernel in kernels.items()}
    real = frame.over({"init": config.inits}, partial(_measured, config, rate), out, "learning_paths",
                      {"measured": ("part", "step"), "stderr": ("part", "step")})
    spectrum = np.stack([np.asarray(spectra.spectrum(_ntk(kernel(train)))) for kernel in kernels.values()])
    found = real.assign(predicted=(("init", "part", "step"), np.stack([*theory.values()])), spectrum=(("init", "index"), spectrum))
    return found.assign_coords(part=["training", "test"], step=list(config.steps)).assign_attrs(rate=rate)


def _data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    count = 2 * config.examples
    return inputs.load("digits", count, None, 2), (1.0 - 2.0 * (inputs.digit_labels()[:count] % 2))[:, None]


def _network(config: Config, init: str, x: np.ndarray) -> Network:
    return network(lambda rngs: nn.MLP([x.shape[1], *[config.width] * config.depth, 1], layer=partial(nnx.Linear, use_bias=False),
                                       kernel_init=initializer(init), rngs=rngs), x)


def _ntk(kernel: Kernel) -> Any:
    assert kernel.ntk is not None
    return kernel.ntk


def _predicted(config: Config, kernel: Any, train: Any, test: Any, y: Any, rate: float) -> np.ndarray:
    """``[2, steps]``."""
    own, found = kernel(train), []
    for x, wanted in ((train, y[:len(train)]), (test, y[len(train):])):
        path = dynamics.gradient_descent(own, jnp.asarray(y[:len(train)]), kernel(x, train), kernel(x), steps=np.array(config.steps),
                                         learning_rate=rate)
        found.append(expected_errors(path, wanted))
    return np.stack(found)


def _measured(config: Config, rate: float, init: str) -> dict[str, Any]:
    """Means over draws of real networks, ``[2, steps]``, and standard errors."""
    x, y = (jnp.asarray(a) for a in _data(config))
    n, net = config.examples, _network(config, init, _data(config)[0])

    def errors(params: Any) -> Any:
        return jnp.mean((net.apply(params, x) - y).reshape(2, n) ** 2, 1)

    def run(key: Any) -> Any:
        return descended(errors, net.init(key), rate, config.steps).T

    found = np.asarray(jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(config.key, config.seeds)), np.float64)
    return {"measured": found.mean(0), "stderr": found.std(0, ddof=1) / config.seeds**0.5}


def draw(found: xr.Dataset) -> Any:
    """Eigenvalues by rank, and errors against the number of steps."""
    figure, (left, middle, right) = drawing.panels(3)
    for k, init in enumerate(found.init.values):
        one = found.sel(init=init)
        drawing.curve(left, np.arange(1, one.sizes["index"] + 1), one.spectrum, None, None, str(init), k)
        for axes, part in ((middle, "training"), (right, "test")):
            some = one.sel(part=part)
            drawing.curve(axes, one.step + 1, some.predicted, some.measured, some.stderr, str(init), k)
    drawing.labelled(left, "rank", r"eigenvalue of $\Theta$", "xy")
    drawing.labelled(middle, "steps of gradient descent, plus 1", "training error", "xy")
    drawing.labelled(right, "steps of gradient descent, plus 1", "test error", "xy")
    return figure


__all__ = ["Config", "PRESETS", "compute", "draw"]
