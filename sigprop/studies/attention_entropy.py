"""Attention at the first step: larger variances of queries and keys make sharper rows of weights.

For square kernels, tokens of unit variance and logits over sqrt(d) the logits have variance 4 under He, 1 under Xavier and LeCun, and 1/4
under Xavier on one kernel for queries, keys and values. Rows of n independent logits of variance s² have an entropy of ln n - s²/2 while
s² is far below 2 ln n (Derrida 1981), :class:`Independent`; those of a real layer share their query, so that their variance is random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx
from jaxtyping import Array, Float

from sigprop import empirical, nn
from sigprop import predict as predicted
from sigprop.init.checks import check_number, check_whole
from sigprop.init.independent import Normal
from sigprop.network import Network, network
from sigprop.nn.checks import check_divides
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, unit_inputs


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """One layer of self-attention on tokens whose entries have a mean square of 1.

    Attributes:
        features, heads: width of the stream, and number of heads, each of ``features / heads`` channels.
        tokens: length of the sequence.
        fused: one kernel for queries, keys and values.
        power: logits are divided by ``d_head ** power``.
        causal: whether a token sees those before it only.
        similarity: mean cosine between two tokens, in [0, 1]; at 1 they are all the same.
    """

    features: int = 128
    heads: int = 1
    tokens: int = 128
    fused: bool = False
    power: float = 0.5
    causal: bool = False
    similarity: float = 0.0
    examples: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("features", self.features)
        check_whole("tokens", self.tokens)
        check_divides("heads", self.heads, self.features, "features")
        check_number("power", self.power)
        check_number("similarity", self.similarity, 0.0, 1.0)

    def network(self) -> Network:
        x = unit_inputs((self.examples, self.tokens, self.features), self.seed, self.similarity)
        init = initializer(self.init)
        return network(lambda rngs: nn.SelfAttention(self.features, self.heads, fused=self.fused, power=self.power, causal=self.causal,
                                                     kernel_init=init, rngs=rngs), x)


@dataclass(frozen=True, kw_only=True)
class Independent(Base):
    """Rows of independent Gaussian logits, the random-energy model.

    Attributes:
        tokens: logits of a row.
        variance: of each, 0 or more.
    """

    tokens: int = 128
    variance: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("tokens", self.tokens, 2)
        check_number("variance", self.variance, 0.0)

    def network(self) -> Network:
        x = np.broadcast_to(np.eye(self.tokens, dtype=np.float32), (self.examples, self.tokens, self.tokens))
        return network(lambda rngs: _Lookup(self.tokens, self.variance, rngs), x)


class _Lookup(nnx.Module):
    """Learned queries that read one-hot tokens."""

    def __init__(self, tokens: int, variance: float, rngs: nnx.Rngs) -> None:
        self.queries = nnx.Param(Normal(variance)(rngs.params(), (tokens, tokens)))

    def __call__(self, x: Float[Array, "batch tokens tokens"]) -> Float[Array, "batch tokens tokens"]:
        return nnx.softmax(jnp.einsum("bkd,dq->bqk", x, self.queries[...])) @ x


def predict(study: Study | Independent) -> xr.Dataset:
    """:func:`sigprop.attention_entropy` of the study: variance of logits, entropies, effective number of keys, largest weights.

    Raises:
        MissingRule, Unsound: where the network cannot be predicted, naming the line.
    """
    net = study.network()
    return predicted.attention_entropy(net, *net.example)


def measure(study: Study | Independent, seeds: int = 64, key: Any = None) -> xr.Dataset:
    """The same variables, measured over ``seeds`` draws of the parameters, each with ``*_stderr``.

    Raises:
        InvalidInput: for fewer than eight seeds.
    """
    net = study.network()
    found = predicted.attention_entropy(net, *net.example, seeds=max(seeds, 1), key=key)
    kept = [name for name in found if str(name).startswith(("measured_", "open_keys:", "freezing_variance"))]
    return found[kept].rename({name: str(name).removeprefix("measured_") for name in kept})


def gradients(study: Study | Independent, seeds: int = 0, key: Any = None) -> xr.Dataset:
    """E[g²] of every kernel, for random cotangents: predicted, or measured where ``seeds`` are given.

    Raises:
        InvalidInput: for fewer than eight seeds, but 0.
        MissingRule, Unsound: where the network cannot be predicted, naming the line.
    """
    net = study.network()
    found = empirical.measure(net, *net.example, seeds=seeds, key=key) if seeds else predicted.propagate(net, *net.example)
    return found[[name for name in found if "grad" in str(name) and ":" not in str(name)]]


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """One layer of self-attention under several inits and of several kinds, and rows of independent logits.

    Attributes:
        init: of which it is claimed that its logits have variance 4.
        others: inits beside it; ``"fused"`` is Xavier on one kernel for queries, keys and values.
        tokens, features, heads: of the layer.
        similarity: mean cosine between two tokens of the kind ``"alike"``.
        head_sizes: channels of a head, divisors of ``features``, in ascending order.
        sequences: tokens of layers whose heads have these sizes.
        variances: of independent logits.
        lengths: of their rows.
    """

    init: str = "he"
    others: tuple[str, ...] = ("xavier", "fused")
    tokens: int = 16
    features: int = 128
    heads: int = 4
    similarity: float = 0.5
    head_sizes: tuple[int, ...] = (4, 32)
    sequences: tuple[int, ...] = (8, 32)
    variances: tuple[float, ...] = (0.25, 1.0, 4.0, 16.0)
    lengths: tuple[int, ...] = (16, 128)


PRESETS = {
    "quick": Config(),
    "paper": Config(others=("xavier", "lecun", "fused"), tokens=64, features=256, head_sizes=(4, 64), sequences=(8, 32, 128),
                    variances=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
}
_KNOWN = {"he": 4.0, "xavier": 1.0, "lecun": 1.0, "fused": 0.25}  # variance of logits, square kernels
_ENTROPIES = {(128, 0.25): 4.7284, (128, 1.0): 4.3667, (128, 4.0): 3.206, (128, 16.0): 1.529, (16, 1.0): 2.356, (16, 4.0): 1.645}
_COLUMNS = ("logit_variance", "row_variance", "entropy_mean", "entropy_std", "effective_keys", "max_weight")
_KINDS = ("over d", "causal", "alike")


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``init``, and under the first one by ``kind`` of layer as ``kind_*``: logit variance and the part of it within rows, entropy,
    effective number of keys, largest weight, predicted and measured, means over heads; ``row`` and ``quartile``, the mean entropy of each
    row and quartiles of those of all; the same under the first init by ``head_size`` and ``sequence``, as ``sized_*``; by ``length`` and
    ``variance``: mean and spread of the entropy of independent logits, predicted."""
    def layer(init: str) -> dict[str, Any]:
        return _compared(config, init)

    def changed(kind: str) -> dict[str, Any]:
        found = {"over d": {"power": 1.0}, "causal": {"causal": True}, "alike": {"similarity": config.similarity}}[kind]
        return {f"kind_{name}": v for name, v in _compared(config, config.init, **found).items()}

    def sized(head_size: int, sequence: int) -> dict[str, Any]:
        found = _compared(replace(config, heads=config.features // head_size, tokens=sequence), config.init)
        return {f"sized_{name}": v for name, v in found.items() if name.removesuffix("_measured").removesuffix("_stderr") not in dims}

    def independent(length: int, variance: float) -> dict[str, Any]:
        one = predict(Independent(tokens=length, variance=variance))
        return {"independent": one.entropy_mean.item(), "independent_error": one.error.item(), "independent_std": one.entropy_std.item(),
                "freezing": one.freezing_variance.item()}

    dims = {f"{name}{after}": (name,) for name in ("row", "quartile") for after in ("", "_measured", "_stderr")}
    one = frame.over({"init": list(dict.fromkeys((config.init, *config.others)))}, layer, out, "attention_entropy", dims)
    two = frame.over({"kind": list(_KINDS)}, changed, out, "attention_entropy_kinds", {f"kind_{name}": axis for name, axis in dims.items()})
    other = frame.over({"length": config.lengths, "variance": config.variances}, independent, out, "attention_entropy_rem", {})
    sizes = {"head_size": config.head_sizes, "sequence": config.sequences}
    three = frame.over(sizes, sized, out, "attention_entropy_sizes", {})
    return xr.merge([one, two, three, other]).assign_attrs(tokens=config.tokens, head=config.features // config.heads)


def _compared(config: Config, init: str, **options: Any) -> dict[str, Any]:
    """Predicted and measured columns of one layer. Heads of a draw share their tokens: errors are those of one head."""
    study = Study(init="xavier" if init == "fused" else init, fused=init == "fused", tokens=config.tokens, features=config.features,
                  heads=config.heads, **options)
    one, other = predict(study), measure(study, config.seeds, config.key)
    rows = str(next(name for name in one if str(name).startswith("row_entropy_mean:")))
    quartiles = {"probability": [0.25, 0.5, 0.75]}
    columns = {name: [one[name], other[name], other[f"{name}_stderr"]] for name in _COLUMNS}
    columns["quartile"] = [d[f"entropy_quantile{end}"].sel(quartiles) for d, end in ((one, ""), (other, ""), (other, "_stderr"))]
    columns["row"] = [one[rows], other[rows], other[rows.replace("mean", "mean_stderr", 1)]]
    found: dict[str, Any] = {"logit_error": float(one.logit_error.mean())}
    for name, (theory, mean, error) in columns.items():
        others = [d for d in theory.dims if d == "probability" or str(d).endswith(":query")]
        rest = [d for d in theory.dims if d not in others]
        found |= {name: theory.mean(rest).values, f"{name}_measured": mean.mean(rest).values,
                  f"{name}_stderr": ((error**2).mean(rest) ** 0.5).values}
    return found


def claims(found: xr.Dataset) -> list[Claim]:
    """He's logits have four times the variance of Xavier's, and sharper rows; division by d makes them uniform, masks shorten them;
    independent logits follow the random-energy model."""
    lines, first = [], str(found.init.values[0])
    for k, init in enumerate(found.init.values):
        one = found.sel(init=init)
        lines.append(
            same(f"{init}: variance of the logits", 4.0 if k == 0 else _KNOWN.get(init, 1.0), one.logit_variance, 4 * one.logit_error)
        )
        lines += [agrees(f"{init}: measured over predicted {name.replace('_', ' ')}", one[name], one[f"{name}_measured"],
                         one[f"{name}_stderr"], 0.15) for name in _COLUMNS]
        lines.append(agrees(f"{init}: measured over predicted quartiles of the entropy", one.quartile, one.quartile_measured,
                            one.quartile_stderr, 0.1))
    if "xavier" in found.init.values:
        one, two = found.isel(init=0), found.sel(init="xavier")
        lines.append(
            above(
                f"measured entropy under xavier less that under {first}",
                0.3,
                two.entropy_mean_measured - one.entropy_mean_measured,
                np.hypot(one.entropy_mean_stderr, two.entropy_mean_stderr),
            )
        )
    lines += _of_kinds(found, first) + _of_sizes(found, first)
    for (length, variance), entropy in _ENTROPIES.items():
        if length in found.length.values and variance in found.variance.values:
            one = found.sel(length=length, variance=variance)
            lines.append(same(f"{length} independent logits of variance {variance:g}: mean entropy, known from 4000 rows", entropy,
                              one.independent, 4 * (one.independent_std / 4000**0.5 + one.independent_error) + 5e-4))
    for length in found.length.values:
        one = found.sel(length=length).isel(variance=0)
        lines.append(same(f"{length} logits of variance {float(one.variance):g}: entropy over ln n - s²/2", 1,
                          one.independent / (log(length) - float(one.variance) / 2), 0.01))
        reach = float(one.variance) * log(length) / (log(length) - one.independent)  # of what would be left of 1/n
        lines.append(same(f"{length} logits: variance of freezing over that at which the line through the first entropies reaches 0", 1,
                          one.freezing / reach, 2 / length))
    return lines


def _of_kinds(found: xr.Dataset, init: str) -> list[Claim]:
    """Logits over d in place of sqrt(d); causal masks, row by row; tokens that are alike."""
    over, causal, alike = (found.sel(kind=kind) for kind in _KINDS)
    head, rows = found.attrs["head"], causal.isel(row=slice(1, None))  # the first row has one key
    lines = [same(f"{init}, over d: variance of the logits times d over that over sqrt(d)", 1,
                  over.kind_logit_variance * head / found.logit_variance[0], 4 * float(found.logit_error[0] / found.logit_variance[0])),
             same(f"{init}, causal: entropy of the first row", 0, causal.kind_row_measured[0], 1e-6),
             agrees(f"{init}, causal: measured over predicted entropy of each other row", rows.kind_row, rows.kind_row_measured,
                    rows.kind_row_stderr, 0.2)]
    for name, one in (("over d", over), ("alike", alike)):
        lines += [agrees(f"{init}, {name}: measured over predicted {column.replace('_', ' ')}", one[f"kind_{column}"],
                         one[f"kind_{column}_measured"], one[f"kind_{column}_stderr"], 0.15) for column in ("row_variance", "entropy_mean")]
    lines.append(above(f"{init}: measured entropy of tokens that are alike less that of others", 0.1,
                       alike.kind_entropy_mean_measured - found.entropy_mean_measured[0],
                       np.hypot(alike.kind_entropy_mean_stderr, found.entropy_mean_stderr[0])))
    return lines


def _of_sizes(found: xr.Dataset, init: str) -> list[Claim]:
    """Whatever the size of a head the logits have one variance; small heads, whose queries differ more in length, leave rows that differ
    more and are wider on average."""
    logits, error = found.sized_logit_variance / found.logit_variance[0], float(found.sized_logit_error.max() / found.logit_variance[0])
    lines = [same(f"{init}: variance of the logits for other sizes of heads and lengths, over that of the first layer", 1,
                  logits.values.ravel()[int(np.argmax(np.abs(logits - 1).values))], 8 * error)]
    lines += [agrees(f"{init}: measured over predicted {name.replace('_', ' ')}, each size of heads and length", found[f"sized_{name}"],
                     found[f"sized_{name}_measured"], found[f"sized_{name}_stderr"], 0.15) for name in _COLUMNS]
    sizes = f"{int(found.head_size[0])} channels of a head less that for {int(found.head_size[-1])}"
    for name, title in (("entropy_std", "spread of the entropy"), ("entropy_mean", "entropy")):
        small, large = (found[f"sized_{name}_measured"][k, -1] for k in (0, -1))
        one, two = (found[f"sized_{name}_stderr"][k, -1] for k in (0, -1))
        lines.append(above(f"{init}, {int(found.sequence[-1])} tokens: measured {title} for {sizes}", 0, small - large, np.hypot(one, two)))
    return lines


def draw(found: xr.Dataset) -> Any:
    """Entropy against the variance of the logits, and the variance at which rows freeze; against the length for several sizes of heads;
    and by row under a causal mask."""
    figure, (left, middle, right) = drawing.panels(3)
    for k, length in enumerate(found.length.values):
        one = found.sel(length=length)
        drawing.curve(left, one.variance, one.independent, None, None, f"independent, $n$ = {length}", k)
        left.axvline(float(one.freezing[0]), color=drawing.COLOURS[k], linewidth=0.8, linestyle=":")
    layers = found.sortby("logit_variance")
    drawing.curve(left, layers.logit_variance, layers.entropy_mean, layers.entropy_mean_measured, layers.entropy_mean_stderr,
                  f"layers, $n$ = {found.attrs['tokens']}", len(found.length))
    drawing.labelled(left, r"variance of the logits $\sigma^2$", "entropy $H$ of a row, nats", "x")
    first = str(found.init.values[0])
    for k, size in enumerate(found.head_size.values):
        one = found.sel(head_size=size)
        drawing.curve(middle, found.sequence, one.sized_entropy_mean, one.sized_entropy_mean_measured, one.sized_entropy_mean_stderr,
                      f"$d_{{head}}$ = {size}", k)
    drawing.labelled(middle, f"tokens $n$, {first}", "entropy $H$ of a row, nats", "x")
    token = np.arange(1, found.sizes["row"] + 1)
    causal, whole = found.sel(kind="causal"), found.isel(init=0)
    few = drawing.spread(len(token))
    for k, (label, one, name) in enumerate((("all keys", whole, "row"), ("causal", causal, "kind_row"))):
        drawing.curve(right, token, one[name], None, None, label, k)
        drawing.curve(right, token[few], None, one[f"{name}_measured"][few], one[f"{name}_stderr"][few], "", k)
    drawing.labelled(right, f"row, {first}", "entropy $H$, nats", "x")
    return figure


__all__ = ["Config", "Independent", "PRESETS", "Study", "claims", "compute", "draw", "gradients", "measure", "predict"]
