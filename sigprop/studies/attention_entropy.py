"""Attention at the first step: larger variances of queries and keys make sharper rows of weights.

For square kernels, tokens of unit variance and logits over sqrt(d) the logits have variance 4 under He, 1 under Xavier and LeCun, and 1/4
under Xavier on one kernel for queries, keys and values. Rows of n independent logits of variance s² have an entropy of ln n - s²/2 while
s² is far below 2 ln n (Derrida 1981), :class:`Independent`; those of a real layer share their query, so that their variance is random.
"""

from __future__ import annotations

from dataclasses import dataclass
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


__all__ = ["Independent", "Study", "gradients", "measure", "predict"]
