"""Order and chaos: chi_1 = 1 is where correlations neither merge nor part, and gradients keep their size (Poole et al. 2016).

In the ordered phase (chi_1 < 1) inputs become alike over a depth of xi_c = -1 / ln chi_c and gradients fall by chi_1 per layer, in the
chaotic one inputs part and gradients grow (Schoenholz et al. 2017).
"""

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

from sigprop import meanfield
from sigprop.init.checks import check_choice, check_whole
from sigprop.init.independent import Normal
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, same


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Networks of equal widths at several weight variances, and their critical one.

    Attributes:
        activation: any of ``"tanh"``, ``"erf"``.
        bias_variance: of all biases.
        weight_variances: sigma_w², in ascending order, the first in the ordered phase and the last in the chaotic one.
        critical: sigma_w² of which it is claimed that it is critical; 0 for the one that mean-field theory gives.
        depth, width: of the networks measured.
    """

    activation: str = "tanh"
    bias_variance: float = 0.05
    weight_variances: tuple[float, ...] = (1.2, 1.76, 2.5, 4.0)
    critical: float = 0.0
    depth: int = 12
    width: int = 128
    seeds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("activation", self.activation, ("tanh", "erf"))
        check_whole("depth", self.depth, 2)


PRESETS = {"quick": Config(), "paper": Config(weight_variances=tuple(np.linspace(1.0, 4.0, 7).tolist()), depth=24, width=256, seeds=256)}


def _critical(config: Config) -> float:
    return config.critical or float(meanfield.critical_weight_variance(config.activation, config.bias_variance))


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``weight_variance`` and ``layer``: ``q``, ``cross`` (the mean product of two inputs) and ``growth`` (E[g²] at the first layer over
    that at this one), predicted by mean-field theory and measured; ``chi1`` at each variance, and at the critical one."""
    grid = {"weight_variance": config.weight_variances, "draw": range(config.seed, config.seed + config.seeds)}
    drawn = frame.drawn(grid, partial(_signals, config), out, "edge_of_chaos", {n: ("layer",) for n in ("q", "cross", "gradient")})
    theory = [meanfield.trajectory(config.activation, v, config.bias_variance, config.depth, q=1.0, c=0.6) for v in config.weight_variances]
    mean, error = drawn.mean("draw"), drawn.std("draw", ddof=1) / config.seeds**0.5
    one = xr.concat(theory, xr.DataArray(list(config.weight_variances), dims="weight_variance", name="weight_variance"))
    size = mean.gradient.isel(layer=-1)
    chi1 = [meanfield.chi1(config.activation, v, config.bias_variance) for v in config.weight_variances]
    return xr.Dataset({
        "q": one.q, "q_measured": mean.q, "q_stderr": error.q, "cross": one.q * one.c, "cross_measured": mean.cross,
        "cross_stderr": error.cross, "growth": one.jacobian_norm.isel(layer=-1) / one.jacobian_norm,
        "growth_measured": mean.gradient / size, "growth_stderr": error.gradient / size, "chi1": ("weight_variance", chi1),
        "chi1_critical": meanfield.chi1(config.activation, _critical(config), config.bias_variance)},
        attrs={"critical": _critical(config), "activation": config.activation, "bias_variance": config.bias_variance})


def _signals(config: Config, weight_variance: Any, draw: Any) -> dict[str, Any]:
    """Of one network and two inputs, by layer: mean squares, the mean product, and E[g²] of random cotangents of the last layer."""
    key = frame.draw_key(draw)
    act = {"tanh": jnp.tanh, "erf": jax.scipy.special.erf}[config.activation]
    unit = Normal(1 / config.width)

    @nnx.vmap
    def made(key: Any) -> nnx.Linear:
        return nnx.Linear(config.width, config.width, kernel_init=lambda *a, **k: jnp.sqrt(weight_variance) * unit(*a, **k),
                          bias_init=Normal(config.bias_variance), rngs=nnx.Rngs(params=key))

    graph, stacked = nnx.split(made(jax.random.split(key, config.depth)))
    own, other, cotangent = jax.random.normal(jax.random.fold_in(key, 1), (3, config.width))
    start = jnp.stack([own, 0.6 * own + 0.8 * other])

    def signals(shifts: Any) -> Any:
        def step(z: Any, layer: Any) -> Any:
            state, shift = layer
            z = nnx.merge(graph, state)(act(z)) + shift
            return z, z

        first = start + shifts[0]
        return jnp.concatenate([first[None], jax.lax.scan(step, first, (stacked, shifts[1:]))[1]])

    still = jnp.zeros((config.depth + 1, *start.shape))
    z, g = signals(still), jax.grad(lambda shifts: jnp.vdot(signals(shifts)[-1, 0], cotangent))(still)
    return {"q": jnp.mean(z[:, 0] ** 2, -1), "cross": jnp.mean(z[:, 0] * z[:, 1], -1), "gradient": jnp.mean(g[:, 0] ** 2, -1)}


def claims(found: xr.Dataset) -> list[Claim]:
    """chi_1 is 1 at the critical variance, less before it and more behind it; signals, correlations and gradients are those measured."""
    lines = [
        same(f"chi_1 at sigma_w² = {found.attrs['critical']:.5g}", 1, found.chi1_critical, 1e-6),
        above("1 less chi_1 at the smallest sigma_w²", 0, 1 - found.chi1[0], 0),
        above("chi_1 at the largest sigma_w²", 1, found.chi1[-1], 0),
    ]
    if (found.attrs["activation"], found.attrs["bias_variance"]) == ("tanh", 0.05):
        lines.append(same("critical sigma_w² of tanh, sigma_b² = 0.05", 1.760955, found.attrs["critical"], 1e-5))
    for v in found.weight_variance.values:
        one = found.sel(weight_variance=v)
        for name, title, margin in (("q", "E[z²]", 0.1), ("cross", "E[z z']", 0.25), ("growth", "growth of E[g²]", 0.5)):
            lines.append(
                agrees(
                    f"sigma_w² = {v:g}: measured over predicted {title}", one[name], one[f"{name}_measured"], one[f"{name}_stderr"], margin
                )
            )
    return lines


def draw(found: xr.Dataset) -> Any:
    """Correlation of two inputs, and growth of gradients, by layer."""
    figure, (left, right) = drawing.panels(2)
    for k, v in enumerate(found.weight_variance.values):
        one = found.sel(weight_variance=v)
        drawing.curve(left, one.layer, one.cross / one.q, one.cross_measured / one.q_measured, one.cross_stderr / one.q_measured,
                      f"$\\sigma_w^2$ = {v:g}", k)
        drawing.curve(right, one.layer, one.growth, one.growth_measured, one.growth_stderr, f"$\\sigma_w^2$ = {v:g}", k)
    drawing.labelled(left, "layer", "correlation of two inputs")
    drawing.labelled(right, "layer", "$E[g^2]$ over that of the last", "y")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
