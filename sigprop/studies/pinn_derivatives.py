"""Physics-informed networks: the initialization sets the scale of derivatives along the inputs, and so of the residual at step 0.

For the wave equation ``r = u_tt - c² u_xx``, so that ``E[r²] = E[u_tt²] + c⁴ E[u_xx²] - 2 c² E[u_tt u_xx]``; with one hidden layer and
isotropic weights ``E[u_tt u_xx] = E[u_tt²] / 3`` at the origin. A ReLU network has no second derivative: its residual would be zero
whatever it is worth, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn, pinn
from sigprop.errors import SigpropError
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_number, check_whole
from sigprop.init.independent import Normal
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, agrees, same

_ACTS: dict[str, Callable[..., Any]] = {"tanh": jnp.tanh, "sin": jnp.sin, "gelu": partial(nnx.gelu, approximate=False), "relu": nnx.relu}
_PAIRS = {"u_x²": (0, 0), "u_tt²": (1, 1), "u_xx²": (2, 2), "u_tt u_xx": (1, 2)}  # of the outputs of ``_derivatives``


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Networks ``u(t, x)`` whose first weights have variance ``gain²``, the others ``gain²`` over their inputs.

    Attributes:
        activations: of ``"tanh"``, ``"sin"``, ``"gelu"``.
        depths: numbers of hidden layers.
        width: of these.
        gain: of the weights.
        bias_variance: of all biases, above 0: without biases second derivatives of odd activations vanish at the origin.
        speeds: c of the wave equation.
        third: what E[u_tt u_xx] over E[u_tt²] is claimed to be for one hidden layer at the origin.
    """

    activations: tuple[str, ...] = ("tanh", "sin")
    depths: tuple[int, ...] = (1, 2)
    width: int = 128
    gain: float = 1.5
    bias_variance: float = 0.25
    speeds: tuple[float, ...] = (0.5, 1.0, 2.0)
    third: float = 1 / 3
    seeds: int = 16384

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("width", self.width)
        check_number("gain", self.gain, above=0.0)
        check_number("bias_variance", self.bias_variance, above=0.0)


PRESETS = {"quick": Config(), "paper": Config(activations=("tanh", "sin", "gelu"), depths=(1, 2, 3), width=512, seeds=65536)}


def _points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)


def _base(config: Config, activation: str, depth: int) -> Network:
    widths, first = [2, *[config.width] * depth, 1], Normal(config.gain**2)

    def build(rngs: nnx.Rngs) -> nnx.Module:
        def init(key: Any, shape: Any, dtype: Any = jnp.float32, *args: Any, **options: Any) -> Any:
            return first(key, shape, dtype) if shape[0] == 2 else Normal(config.gain**2 / shape[0])(key, shape, dtype)

        return nn.PINN(widths, kernel_init=init, bias_init=Normal(config.bias_variance), act=_ACTS[activation], rngs=rngs)

    return network(build, _points())


def _along(u: Callable[..., Any], axis: int) -> Callable[..., Any]:
    return lambda p, x: jax.jvp(lambda y: u(p, y), (x,), (jnp.eye(2, dtype=x.dtype)[axis],))[1]


def _solution(base: Network) -> Callable[[Any, Any], Any]:
    return lambda p, x: base.apply(p, x[None])[0, 0]


def _second(u: Callable[..., Any], axis: int) -> Callable[..., Any]:
    return _along(_along(u, axis), axis)


def _at(function: Callable[..., Any]) -> Callable[..., Any]:
    """At many points, ``[n, ...]``, with an axis for its one feature."""
    return lambda p, xs: jax.vmap(lambda x: function(p, x))(xs)[..., None]


def _derivatives(base: Network) -> Callable[..., Any]:
    """``[u_x, u_tt, u_xx]`` at one point."""
    u = _solution(base)
    return lambda p, x: jnp.stack([_along(u, 1)(p, x), _second(u, 0)(p, x), _second(u, 1)(p, x)])


def _residual(base: Network, c: float) -> Callable[..., Any]:
    u = _solution(base)
    return lambda p, x: _second(u, 0)(p, x) - c**2 * _second(u, 1)(p, x)


def _predicted(base: Network, function: Callable[..., Any], points: np.ndarray) -> np.ndarray:
    """Second moments of the outputs of ``function`` at the same point, the mean over points."""
    net = network(_at(function), points, init=base.init)
    return np.asarray(infinite_kernel(net, ntk=False, diagonal="batch")(points).nngp).mean(0)


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``activation`` and ``depth``: second moments of derivatives ``(pair)`` and of wave residuals ``(speed)``, predicted and measured;
    the share of the residual's loss at step 0 beside that of u² at the same points; ``third``, E[u_tt u_xx] / E[u_tt²] at the origin."""
    def point(activation: str, depth: int) -> dict[str, Any]:
        base, points = _base(config, activation, depth), _points()
        moments = _predicted(base, _derivatives(base), points)
        at_zero = _predicted(base, _derivatives(base), np.zeros((1, 2), np.float32))
        terms = {"data": (_at(_solution(base)), points, None), "residual": (_at(_residual(base, 1.0)), points, None)}
        measured = _measured(config, base, points)
        found = {"moment": np.array([moments[pair] for pair in _PAIRS.values()]),
                 "residual": np.array([_predicted(base, _residual(base, c), points) for c in config.speeds]),
                 "third": at_zero[1, 2] / at_zero[1, 1], "share": float(pinn.loss_balance(base, terms)["share"].sel(term="residual"))}
        count = len(_PAIRS)
        return found | {f"{name}{suffix}": part for suffix, column in zip(("_measured", "_stderr"), measured, strict=True)
                        for name, part in (("moment", column[:count]), ("residual", column[count:]))}

    axes = {"moment": ("pair",), "residual": ("speed",)}
    dims = {f"{name}{suffix}": axis for name, axis in axes.items() for suffix in ("", "_measured", "_stderr")}
    found = frame.over({"activation": config.activations, "depth": config.depths}, point, out, "pinn_derivatives", dims)
    return found.assign_coords(pair=list(_PAIRS), speed=list(config.speeds)).assign_attrs(
        third=config.third, width=config.width, relu=_refusal(config))


def _measured(config: Config, base: Network, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over points and draws of the parameters, and their standard errors."""
    derivatives = _derivatives(base)

    def one(key: Any) -> Any:
        p = base.init(key)
        values = jax.vmap(lambda x: derivatives(p, x))(jnp.asarray(points))
        residuals = [values[:, 1] - c**2 * values[:, 2] for c in config.speeds]
        return jnp.stack([*((values[:, a] * values[:, b]).mean() for a, b in _PAIRS.values()), *((r**2).mean() for r in residuals)])

    groups = jax.random.split(config.key, (max(config.seeds // 64, 8), 64))
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(lambda some: jax.vmap(one)(some).mean(0), keys))(groups), np.float64)
    return found.mean(0), found.std(0, ddof=1) / len(found) ** 0.5


def _refusal(config: Config) -> str:
    """What is said of a network with ReLU; nothing where it gets a number."""
    base = _base(config, "relu", 2)
    try:
        _predicted(base, _residual(base, 1.0), _points())
    except SigpropError as error:
        return str(error)
    return ""


def claims(found: xr.Dataset) -> list[Claim]:
    """Derivatives and residuals are those measured, the wave residual is what its terms make it, ReLU is refused."""
    lines = [same("a ReLU network's residual is refused (1)", 1, float(bool(found.attrs["relu"])), 0)]
    for act in found.activation.values:
        for depth in found.depth.values:
            one, name = found.sel(activation=act, depth=depth), f"{act}, {depth} hidden layers"
            tt, xx, cross = (float(one.moment.sel(pair=p)) for p in ("u_tt²", "u_xx²", "u_tt u_xx"))
            whole = np.array([tt + c**4 * xx - 2 * c**2 * cross for c in found.speed.values])
            lines.append(same(f"{name}: E[residual²] over what its terms make", 1, float(np.max(one.residual / whole)), 1e-6))
            squares = [p for p in found.pair.values if p != "u_tt u_xx"]
            margin = 0.1 + 8.0 * (depth - 1) / found.attrs["width"]
            for title, column, where in (("E[derivative²]", "moment", {"pair": squares}), ("E[residual²]", "residual", {})):
                theory, mean, error = (one[f"{column}{suffix}"].sel(where) for suffix in ("", "_measured", "_stderr"))
                lines.append(agrees(f"{name}: measured over predicted {title}", theory, mean, error, margin))
            if depth == 1:
                lines.append(same(f"{name}: E[u_tt u_xx] / E[u_tt²] at the origin", found.attrs["third"], float(one.third), 1e-5))
    return lines


def draw(found: xr.Dataset) -> Any:
    """Residuals against the wave speed, and their share of the loss at step 0 for c = 1 against depth."""
    figure, (left, right) = drawing.panels(2)
    for k, act in enumerate(found.activation.values):
        one = found.sel(activation=act).isel(depth=-1)
        drawing.curve(left, found.speed, one.residual, one.residual_measured, one.residual_stderr, str(act), k)
        drawing.curve(right, found.depth, found.share.sel(activation=act), None, 0, str(act), k)
    drawing.labelled(left, "wave speed c", "$E[r^2]$", "xy")
    drawing.labelled(right, "hidden layers", "share of the residual in the loss")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
