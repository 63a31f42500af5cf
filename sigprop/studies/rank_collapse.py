"""Rank collapse: attention makes tokens alike, layer by layer, and a residual stream holds them apart (Dong et al. 2021; Noci et al. 2022).

With uniform attention, where the logits vanish, a layer keeps the mean over tokens and nothing of what tells them apart; a residual branch
of scale alpha beside a stream of scale sqrt(1 - alpha²) leaves ``1 - alpha²`` of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import nn
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_number, check_whole
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, same
from sigprop.studies.study import initializer, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Layers of attention, one behind the other, on random tokens of mean square 1.

    Attributes:
        init: of all kernels.
        branch: alpha, of the layers in a residual stream.
        kept: share of what tells tokens apart that such a layer is claimed to keep under uniform attention; 0 for 1 - alpha².
        layers: their number.
        tokens, features, heads: of the inputs, and of the attention.
    """

    init: str = "lecun"
    branch: float = 0.6
    kept: float = 0.0
    layers: int = 3
    tokens: int = 8
    features: int = 128
    heads: int = 8
    seeds: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("branch", self.branch, 0.0, 1.0)
        check_number("kept", self.kept, 0.0, 1.0)
        for name in ("layers", "tokens", "features", "heads"):
            check_whole(name, getattr(self, name))


PRESETS = {"quick": Config(), "paper": Config(layers=6, tokens=16, features=256, seeds=512)}


class _Stack(nnx.Module):
    """Attention with or without a residual stream; ``uniform`` where its logits vanish."""

    def __init__(self, config: Config, layers: int, branch: float | None, uniform: bool, rngs: nnx.Rngs) -> None:
        init = initializer(config.init)
        self.layers = nnx.List([nn.SelfAttention(config.features, config.heads, kernel_init=init, rngs=rngs)
                                for _ in range(layers)])
        self.branch, self.uniform = branch, uniform

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            y = layer.out(_values(layer, x)) if self.uniform else layer(x)
            x = y if self.branch is None else (1 - self.branch**2) ** 0.5 * x + self.branch * y
        return x


def _values(layer: nn.SelfAttention, x: Any) -> Any:
    """What attention of vanishing logits passes on: the mean over tokens."""
    return jnp.broadcast_to(layer.projections[2](x).mean(-2, keepdims=True), x.shape)


def _network(config: Config, layers: int, kind: str) -> Network:
    x = unit_inputs((1, config.tokens, config.features), config.seed)
    branch = None if kind == "plain" else config.branch
    return network(lambda rngs: _Stack(config, layers, branch, kind == "uniform", rngs), x)


def _likeness(covariance: Any) -> Any:
    """Of tokens ``[..., T, T]``: the part of their mean square that the mean token has, the whole, and the rest."""
    mean, square = covariance.mean((-1, -2)), jnp.diagonal(covariance, axis1=-2, axis2=-1).mean(-1)
    return jnp.stack([mean, square, square - mean], -1)


def _parts(y: Any) -> Any:
    """The same of tokens ``[T, features]``, without cancellation."""
    mean = y.mean(0)
    return jnp.stack([(mean**2).mean(), (y**2).mean(), ((y - mean) ** 2).mean()])


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``kind`` (``plain``, ``residual``, ``uniform``, a residual stream under uniform attention) and ``layer``: the mean product of two
    tokens, equal ones among them, their mean square, and their mean square around their mean, ``(part)``, predicted and measured."""
    def point(kind: str) -> dict[str, Any]:
        nets = [_network(config, layers, kind) for layers in range(1, config.layers + 1)]
        kernels = [infinite_kernel(net, ntk=False, diagonal="batch")(*net.example) for net in nets]
        keys = jax.random.split(config.key, (max(config.seeds // 8, 8), 8))
        moments = np.stack([_measured(net, keys) for net in nets], 1)
        return {"predicted": np.stack([np.asarray(_likeness(k.nngp[0])) for k in kernels]),
                "uncertain": np.array([float(k.error) for k in kernels]), "measured": moments.mean(0),
                "stderr": moments.std(0, ddof=1) / len(moments) ** 0.5}

    dims = {**dict.fromkeys(("predicted", "measured", "stderr"), ("layer", "part")), "uncertain": ("layer",)}
    found = frame.over({"kind": ["plain", "residual", "uniform"]}, point, out, "rank_collapse", dims)
    x = unit_inputs((1, config.tokens, config.features), config.seed)[0]
    start = np.asarray(_parts(x), float)
    names = {"part": ["mean", "square", "apart"], "layer": np.arange(1, config.layers + 1)}
    return found.assign_coords(names).assign(start=("part", start)).assign_attrs(
        kept=config.kept or 1 - config.branch**2, features=config.features)


def _measured(net: Network, keys: Any) -> np.ndarray:
    """Means over groups of draws, ``[groups, part]``."""
    def one(key: Any) -> Any:
        return _parts(net.apply(net.init(key), jnp.asarray(net.example[0]))[0])

    return np.asarray(jax.jit(lambda keys: jax.lax.map(lambda some: jax.vmap(one)(some).mean(0), keys))(keys), np.float64)


def claims(found: xr.Dataset) -> list[Claim]:
    """Token moments are those measured; without a stream tokens collapse; uniform attention leaves 1 - alpha² of what tells them apart."""
    lines, last = [], found.sizes["layer"]
    for kind in found["kind"].values:
        one = found.sel(kind=kind)
        margin = 0.1 + 4.0 * last / found.attrs["features"]
        known = one.predicted > 10 * one.uncertain  # not what is left of tokens that have collapsed
        theory, mean, error = (one[name].values[known.values] for name in ("predicted", "measured", "stderr"))
        lines.append(agrees(f"{kind}: measured over predicted token moments", theory, mean, error, margin))
    apart = found.predicted.sel(part="apart")
    before = float(found.start.sel(part="apart"))
    uniform = np.concatenate([[before], apart.sel(kind="uniform").values])
    share = uniform[1:] / uniform[:-1]
    lines.append(same("uniform, alpha: share of what tells tokens apart that a layer keeps", found.attrs["kept"],
                      share[np.argmax(np.abs(share - found.attrs["kept"]))], 1e-5))
    plain, residual = (found.sel(kind=kind).isel(layer=-1) for kind in ("plain", "residual"))  # theory has no digit of what collapsed
    (lost, lost_error), (held, held_error) = (
        (float(one.measured[2] / one.measured[1]), float(one.stderr[2] / one.measured[1])) for one in (plain, residual))
    start = before / float(found.start.sel(part="square"))
    return [*lines, above("share that tells tokens apart at the start less ten times that at the end, plain, measured", 0,
                          start - 10 * lost, 10 * lost_error),
            above("share that tells tokens apart at the end, residual, less three times that of plain, measured", 0, held - 3 * lost,
                  np.hypot(held_error, 3 * lost_error))]


def draw(found: xr.Dataset) -> Any:
    """The share of a token's mean square that tells it from the others."""
    figure, (axes,) = drawing.panels()
    for k, kind in enumerate(found["kind"].values):
        one = found.sel(kind=kind)
        theory, mean = (one[c].sel(part="apart") / one[c].sel(part="square") for c in ("predicted", "measured"))
        theory = theory.where(one.predicted.sel(part="apart") > 3 * one.uncertain)  # it is known within a third
        drawing.curve(axes, found.layer, theory, mean, one.stderr.sel(part="apart") / one.measured.sel(part="square"), str(kind), k)
    axes.axhline(float(np.finfo(np.float32).eps) ** 2, linestyle=":", color="black", linewidth=0.8, label="rounding")
    drawing.labelled(axes, "layer", "share that tells tokens apart", "y")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
