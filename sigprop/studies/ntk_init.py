"""He and Xavier give different tangent kernels, hence different learning paths: spectra, convergence with the width, training."""

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
from sigprop.empirical import empirical_kernel
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_whole
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, near, same, slope
from sigprop.studies.study import initializer
from sigprop.studies.training import descended, expected_errors
from sigprop.types import Kernel


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks without biases on scikit-learn's digits, whose parity they learn.

    Attributes:
        first, second: initializers of which the kernels are compared.
        depths: numbers of hidden layers at which they are.
        depth: of the networks that are measured and trained, of either initializer with the same learning rate.
        widths: of their hidden layers, in ascending order; the last one is trained.
        examples: images, whose even ones are 1 and whose odd ones are -1.
        steps: of gradient descent, at half the largest learning rate of ``first``, at which the loss is compared.
        draws: networks that are trained.
    """

    first: str = "he"
    second: str = "xavier"
    depths: tuple[int, ...] = (1, 2, 4)
    depth: int = 2
    widths: tuple[int, ...] = (64, 128, 256)
    examples: int = 16
    steps: tuple[int, ...] = (0, 1, 4, 16)
    draws: int = 768
    seeds: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("depth", "draws"):
            check_whole(name, getattr(self, name))
        check_whole("examples", self.examples, 4)


PRESETS = {"quick": Config(), "paper": Config(depths=(1, 2, 4, 8, 16), widths=(64, 128, 256, 512), examples=32,
                                               steps=(0, 1, 2, 4, 8, 16, 32), draws=2048, seeds=512)}


def _network(init: str, widths: list[int], x: np.ndarray) -> Network:
    layer = partial(nnx.Linear, use_bias=False)
    return network(lambda rngs: nn.MLP(widths, layer=layer, kernel_init=initializer(init), rngs=rngs), x)


def _data(config: Config) -> tuple[np.ndarray, np.ndarray]:
    parity = inputs.digit_labels()[:config.examples] % 2
    return inputs.load("digits", config.examples, None, 2), (1.0 - 2.0 * parity)[:, None]


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``init``: the kernels' diagonals ``(depth)`` of networks that are square throughout, spectra and alignment with the targets;
    the distance of finite kernels of the first ``(width)``, root mean square over draws, and ``ill``, their condition number over the
    infinite one's; of the widest the alignment and the means along the eigenvectors of the infinite one, ``modes``; losses
    ``(init, step)`` under gradient descent, predicted and measured."""
    x, parity = _data(config)
    y, names = jnp.asarray(parity), (config.first, config.second)
    square = {name: [infinite_kernel(_network(name, [x.shape[1]] * (depth + 2), x))(x) for depth in config.depths] for name in names}
    kernels = {name: infinite_kernel(_network(name, [x.shape[1], *[config.widths[-1]] * config.depth, 1], x))(x) for name in names}
    finite = frame.drawn({"width": config.widths, "draw": range(config.seed, config.seed + config.seeds)}, partial(_finite, config),
                         out, "ntk_init", {"modes": ("rank",)}, static=["width"])
    apart, wide = finite.distance**2, finite.isel(width=-1)
    root = apart.mean("draw") ** 0.5
    rate = 0.5 * float(dynamics.max_learning_rate(_ntk(kernels[config.first])))
    expected = [_expected(config, kernels[name], y, rate) for name in names]
    trained = frame.drawn({"init": list(names), "rate": [rate], "draw": range(config.seed, config.seed + config.draws)},
                          partial(_trained, config), out, "ntk_init_training", {"value": ("step",)}).value.isel(rate=0)

    def by_init(function: Any) -> tuple[str, np.ndarray]:
        return "init", np.array([float(function(kernels[name].ntk)) for name in names])

    return xr.Dataset({
        "nngp": (("init", "depth"), [[float(np.mean(np.diag(k.nngp))) for k in square[n]] for n in names]),
        "ntk": (("init", "depth"), [[float(np.mean(np.diag(_ntk(k)))) for k in square[n]] for n in names]),
        "spectrum": (("init", "rank"), np.stack([np.asarray(spectra.spectrum(kernels[n].ntk)) for n in names])),
        "condition": by_init(spectra.condition_number), "alignment": by_init(lambda k: spectra.alignment(k, y @ y.T)),
        "distance": root, "distance_stderr": apart.std("draw", ddof=1) / (2 * root * config.seeds**0.5),
        **{f"{name}_measured": wide[name].mean("draw") for name in ("alignment", "modes")},
        **{f"{name}_stderr": wide[name].std("draw", ddof=1) / config.seeds**0.5 for name in ("alignment", "modes")},
        "ill": finite.ill.mean("draw"), "ill_stderr": finite.ill.std("draw", ddof=1) / config.seeds**0.5,
        "loss": (("init", "step"), expected), "loss_measured": trained.mean("draw"),
        "loss_stderr": trained.std("draw", ddof=1) / config.draws**0.5},
        {"init": list(names), "depth": list(config.depths), "step": list(config.steps)},
        {"rate": rate, "gains": [2.0 if n == "he" else 1.0 for n in names], "trained": config.depth, "size": float(np.mean(x**2))})


def _expected(config: Config, kernel: Kernel, y: Any, rate: float) -> np.ndarray:
    """The loss at the config's steps, of the mean prediction and of the spread of predictions."""
    return expected_errors(dynamics.gradient_descent(kernel, y, test=kernel, steps=np.array(config.steps), learning_rate=rate), y)


def _ntk(kernel: Kernel) -> Any:
    assert kernel.ntk is not None
    return kernel.ntk


def _finite(config: Config, width: int, draw: Any) -> dict[str, Any]:
    """Of the kernel of one finite network: the relative distance from the infinite one, the alignment with the targets, and the quadratic
    forms with the eigenvectors of the infinite one, whose means have no bias of repelled eigenvalues."""
    x, y = _data(config)
    net = _network(config.first, [x.shape[1], *[width] * config.depth, 1], x)
    with jax.ensure_compile_time_eval():
        limit = infinite_kernel(net)(x).ntk
        vectors = jnp.linalg.eigh(limit)[1][:, ::-1]
    kernel = _ntk(empirical_kernel(net)(net.init(frame.draw_key(draw)), x))
    return {"distance": spectra.relative_distance(kernel, limit), "alignment": spectra.alignment(kernel, jnp.asarray(y @ y.T)),
            "modes": jnp.einsum("ik,ij,jk->k", vectors, kernel, vectors),
            "ill": spectra.condition_number(kernel) / spectra.condition_number(limit)}


def _trained(config: Config, init: str, rate: Any, draw: Any) -> Any:
    """Mean squared errors at the config's steps of one real network under full-batch gradient descent."""
    x, y = _data(config)
    net = _network(init, [x.shape[1], *[config.widths[-1]] * config.depth, 1], x)

    def error(params: Any) -> Any:
        return jnp.mean((net.apply(params, jnp.asarray(x)) - y) ** 2)

    return descended(error, net.init(frame.draw_key(draw)), rate, config.steps)


def claims(found: xr.Dataset) -> list[Claim]:
    """Powers of the gain, the ratio of the initializers, 1/sqrt(width), and that real networks follow the kernel."""
    lines = []
    for name, gain in zip(found.init.values, np.atleast_1d(found.attrs["gains"]), strict=True):
        nngp = found.nngp.sel(init=name)
        lines += [same(f"{name}, {d} hidden layers: NNGP diagonal over that of the input", gain * (gain / 2) ** d,
                       nngp.sel(depth=d) / found.attrs["size"], 1e-5 * gain) for d in found.depth.values]
    ratio = found.ntk[1] / found.ntk[0]
    lines += [same(f"{d} hidden layers: NTK diagonal of {found.init.values[1]} over {found.init.values[0]}", 2.0**-d,
                   ratio.sel(depth=d), 1e-5 * 2.0**-d) for d in found.depth.values]
    power, error = slope(np.log(found.width), np.log(found.distance), found.distance_stderr / found.distance)
    lines.append(near("power of the width in the distance of finite NTKs", -0.5, power, error, 0.1))
    lines.append(agrees(f"{found.init.values[0]}: measured over predicted alignment of the widest NTK with the targets",
                        found.alignment[0], found.alignment_measured, found.alignment_stderr, 0.1))
    first = found.init.values[0]
    lines += [agrees(f"{first}: measured over predicted eigenvalues of the widest NTK, along the eigenvectors", found.spectrum[0],
                     found.modes_measured, found.modes_stderr, 0.15),
              agrees(f"{first}: measured over predicted condition number, both widest NTKs extrapolated", 1, *_extrapolated(found), 0.1)]
    for name in found.init.values:
        loss, measured, error = (found[f"loss{end}"].sel(init=name) for end in ("", "_measured", "_stderr"))
        title = f"{name}: 1 + (loss under gradient descent less that predicted) / loss at the start"
        lines.append(agrees(title, 1, 1 + (measured - loss) / loss[0], error / loss[0], 0.15))
    fall = found.loss_measured[:, 0] / found.loss_measured[:, -1]
    fast, slow = found.init.values
    last, error = found.loss_measured[:, -1], found.loss_stderr[:, -1]
    ratio = last[1] / last[0]
    return [*lines, above(f"{fast}: loss before over loss after", 2, fall[0], 0),
            above(f"loss after as many steps, {slow} over {fast}", 1.5, ratio, ratio * np.hypot(error[0] / last[0], error[1] / last[1]))]


def _extrapolated(found: xr.Dataset) -> tuple[float, float]:
    """The ratio of condition numbers without its term of order 1/width, by which random eigenvalues repel each other, and its error."""
    (one, two), (n, m) = found.ill[-2:].values, found.width[-2:].values
    error = np.hypot(*(found.ill_stderr[-2:] * found.width[-2:]).values)
    return float((m * two - n * one) / (m - n)), float(error / (m - n))


def draw(found: xr.Dataset) -> Any:
    """Spectra, distances of finite kernels, and the loss."""
    figure, (left, middle, right) = drawing.panels(3)
    for k, name in enumerate(found.init.values):
        drawing.curve(left, found["rank"] + 1, found.spectrum.sel(init=name), None if k else found.modes_measured, found.modes_stderr,
                      str(name), k)
    drawing.labelled(left, "rank", r"eigenvalue of $\Theta$", "xy")
    line = float(found.distance[0]) * np.sqrt(float(found.width[0]) / found.width)
    drawing.curve(middle, found.width, line, found.distance, found.distance_stderr, r"$\propto n^{-1/2}$", 0)
    drawing.labelled(middle, "width $n$", r"$\|\Theta_n - \Theta\|_F\,/\,\|\Theta\|_F$", "xy")
    for k, name in enumerate(found.init.values):
        loss, measured, error = (found[f"loss{end}"].sel(init=name) for end in ("", "_measured", "_stderr"))
        drawing.curve(right, found.step + 1, loss, measured, error, str(name), k)
    drawing.labelled(right, "step + 1", "mean squared error", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
