"""What all studies have in common: an initializer by name, unit inputs, and prediction and measurement of the nodes that matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from flax import nnx

from sigprop import empirical, nn
from sigprop import predict as predicted
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.init.fans import PLAIN, Fans
from sigprop.init.independent import Normal
from sigprop.init.scaling import he, lecun, xavier
from sigprop.network import Network, network
from sigprop.nn.shared import Init

_NAMED = {"he": he, "xavier": xavier, "lecun": lecun, "normal": lambda fans: Normal(1.0)}


@dataclass(frozen=True, kw_only=True)
class Study:
    """One network at one initialization: subclasses add sizes, and write :meth:`network` and :meth:`nodes`.

    Attributes:
        init: of the kernels: ``"he"``, ``"xavier"``, ``"lecun"`` on the fans of their operations, ``"normal"`` with variance 1 whatever the
            fans, or an initializer of :mod:`sigprop.init` or Flax, called as ``(key, shape, dtype)``.
        examples: inputs of the network.
        seed: of the inputs, 0 or more.

    Raises:
        InvalidInput: for unknown names, and numbers out of range.
    """

    init: str | Init = "he"
    examples: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        initializer(self.init)
        check_whole("examples", self.examples)
        check_whole("seed", self.seed, 0)

    def network(self) -> Network:
        """The network, with its inputs in ``example``."""
        raise NotImplementedError

    def nodes(self) -> Sequence[str]:
        """Names of the rows of :func:`sigprop.propagate` that the study is about, in order of evaluation."""
        raise NotImplementedError


def predict(study: Study, backward: bool = True) -> xr.Dataset:
    """The rows of :func:`sigprop.propagate` that ``study`` is about: forward and backward variance, also by pixel and by parameter.

    Args:
        backward: whether to predict gradients, which takes minutes through normalizations on the statistics of the batch.

    Raises:
        MissingRule, Unsound: where the network cannot be predicted, naming the line.
    """
    net = study.network()
    return picked(predicted.propagate(net, *net.example, backward=backward), study.nodes())


def measure(study: Study, seeds: int = 64, key: Any = None, backward: bool = True) -> xr.Dataset:
    """The same rows of :func:`sigprop.measure`, over ``seeds`` draws of the parameters, with ``*_stderr`` beside each variable.

    Raises:
        InvalidInput: for fewer than eight seeds.
    """
    net = study.network()
    return picked(empirical.measure(net, *net.example, seeds=seeds, key=key, backward=backward), study.nodes())


def compared(study: Study, seeds: int, key: Any, column: str = "second_moment") -> dict[str, np.ndarray]:
    """One column at every node: ``predicted`` and its error, ``uncertain``, ``measured`` and its ``stderr``."""
    backward = "grad" in column
    one, other = predict(study, backward), measure(study, seeds, key, backward)
    return {"predicted": one[column].values, "uncertain": one["grad_error" if backward else "error"].values,
            "measured": other[column].values, "stderr": other[f"{column}_stderr"].values}


def pixels(study: Study, seeds: int, key: Any, kind: str = "site_variance", node: str = "layers/0") -> dict[str, np.ndarray]:
    """One map of one node, the mean over its examples: ``predicted``, ``measured`` and its ``stderr``, ``[height, width]``."""
    backward = "grad" in kind
    one, other = predict(study, backward), measure(study, seeds, key, backward)
    found = {"predicted": one[f"{kind}:{node}"], "measured": other[f"{kind}:{node}"], "stderr": other[f"{kind}_stderr:{node}"]}
    return {name: np.asarray(v).mean(0) for name, v in found.items()}


def picked(found: xr.Dataset, nodes: Sequence[str]) -> xr.Dataset:
    """Some rows, without the maps of the others."""
    others = [name for name in found.data_vars if str(name).partition(":")[2] not in ("", *nodes)]
    return found.drop_vars(others).sel(node=list(nodes))


def initializer(init: Any, fans: Fans = PLAIN) -> Init:
    """An initializer by name, which counts ``fans``; others are given as they are.

    Raises:
        InvalidInput: for unknown names, and what cannot be called.
    """
    if callable(init):
        return init
    if init not in _NAMED:
        raise InvalidInput(f"init: {init!r} is none of {', '.join(map(repr, _NAMED))}; or give an initializer (key, shape, dtype)")
    return _NAMED[init](fans)


def unit_inputs(shape: Sequence[int], seed: int, similarity: float = 0.0) -> np.ndarray:
    """Random float32 vectors along the last axis, whose mean square is exactly 1.

    Args:
        similarity: share of a vector that all have in common: the mean cosine of two of them in many channels.
    """
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal(shape[-1]), rng.standard_normal(shape)
    x = similarity**0.5 * common + (1 - similarity) ** 0.5 * own
    return (x / np.sqrt(np.mean(x**2, -1, keepdims=True))).astype(np.float32)


def stack(kinds: Sequence[nn.Convolution], widths: Sequence[int], inits: Sequence[Init], x: np.ndarray) -> Network:
    """Convolutions with ReLU in between: ``layers/0``, ``relu``, ``layers/2``, ... are its rows."""
    def build(rngs: nnx.Rngs) -> nnx.Module:
        made: list[Any] = []
        for kind, inputs, outputs, init in zip(kinds, widths[:-1], widths[1:], inits, strict=True):
            made += [kind(inputs, outputs, kernel_init=init, rngs=rngs), nnx.relu]
        return nnx.Sequential(*made[:-1])

    return network(build, x)
