"""Sparse layers: kernels times a constant mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number, check_whole
from sigprop.init.initializer import Initializer
from sigprop.nn.checks import check_callable, check_divides
from sigprop.nn.reparametrized import Reparametrized
from sigprop.nn.shared import HE, ZEROS, Init

MaskMaker = Callable[[Any, Any], Any]  # (key, kernel) -> zeros and ones


class Mask(nnx.Variable):
    """Zeros and ones that training does not move."""


@dataclass(frozen=True)
class RandomMask:
    """Keeps each weight with probability ``kept``, independently.

    Raises:
        InvalidInput: for a fraction out of (0, 1].
    """

    kept: float

    def __post_init__(self) -> None:
        check_number("kept", self.kept, high=1.0, above=0.0)

    def __call__(self, key: Any, kernel: Array) -> Array:
        return jax.random.bernoulli(key, self.kept, kernel.shape)


@dataclass(frozen=True)
class MagnitudeMask:
    """Keeps the largest weights of a normal kernel: those beyond ``t`` standard deviations, ``t`` the quantile of ``1 - kept / 2``.

    They carry more than their share of the variance, :attr:`share`, by which E[z²] is multiplied in each layer.

    Args:
        kept: expected fraction.
        init: the initializer of the kernel, one of :mod:`sigprop.init` with a normal law.

    Raises:
        InvalidInput: for a fraction out of (0, 1]; by a call where the law is not normal.
    """

    kept: float
    init: Initializer

    def __post_init__(self) -> None:
        check_number("kept", self.kept, high=1.0, above=0.0)

    @property
    def share(self) -> float:
        """``kept + 2 t phi(t)`` of the variance, ``phi`` the normal density."""
        t = NormalDist().inv_cdf(1 - self.kept / 2)
        return self.kept + 2 * t * NormalDist().pdf(t)

    def __call__(self, key: Any, kernel: Array) -> Array:
        law = self.init.law(kernel.shape)
        if law.family != "normal":
            raise InvalidInput(f"init: its law is {law.family}; the fraction that is kept is known for normal ones")
        return jnp.abs(kernel) >= NormalDist(0.0, law.variance**0.5).inv_cdf(1 - self.kept / 2)


@dataclass(frozen=True)
class BlockMask:
    """Keeps ``kept`` weights, at random, of every ``size`` successive inputs of an output unit: N:M sparsity (Mishra et al. 2021).

    Raises:
        InvalidInput: where ``kept`` is not from 1 to ``size``; by a call where ``size`` does not divide the inputs.
    """

    kept: int
    size: int

    def __post_init__(self) -> None:
        check_whole("size", self.size)
        check_whole("kept", self.kept)
        if self.kept > self.size:
            raise InvalidInput(f"kept: {self.kept} given; it must be at most size, {self.size}")

    def __call__(self, key: Any, kernel: Array) -> Array:
        shape = kernel.shape
        inputs = int(np.prod(shape[:-1]))
        check_divides("size", self.size, inputs, "inputs of a unit")
        scores = jax.random.uniform(key, (inputs // self.size, self.size, shape[-1]))
        ranks = jnp.argsort(jnp.argsort(scores, axis=1), axis=1)
        return (ranks < self.kept).reshape(shape)


@dataclass(frozen=True, eq=False)
class GivenMask:
    """The mask itself, an array shaped like the kernel, such as one found by pruning.

    Raises:
        InvalidInput: for entries other than 0 and 1; by a call where the shapes differ.
    """

    mask: Any

    def __post_init__(self) -> None:
        if not np.isin(np.asarray(self.mask), (0, 1)).all():
            raise InvalidInput("mask: it has entries other than 0 and 1")

    def __call__(self, key: Any, kernel: Array) -> Array:
        if np.shape(self.mask) != kernel.shape:
            raise InvalidInput(f"mask: its shape is {np.shape(self.mask)}; it must be that of the kernel, {kernel.shape}")
        return jnp.asarray(self.mask)


class Masked(Reparametrized):
    """A layer that keeps some of its weights (Frankle & Carbin 2019; Evci et al. 2022).

    He's variance 2/n loses a factor ``p`` per layer that keeps a fraction ``p`` at random; ``sp.init.he(kept=p)`` keeps E[z²].

    Args:
        layer: as in :class:`Reparametrized`.
        mask: :class:`RandomMask`, :class:`BlockMask`, :class:`MagnitudeMask`, :class:`GivenMask`, or any function of a key and the kernel.

    Raises:
        InvalidInput: for a mask that is no function, or does not fit.
    """

    def __init__(self, layer: Any, mask: MaskMaker, *, rngs: nnx.Rngs) -> None:
        super().__init__(layer)
        check_callable(mask=mask)
        self.mask = Mask(mask(rngs.params(), layer.kernel[...]).astype(layer.kernel.dtype))

    def kernel(self) -> Float[Array, "*axes outputs"]:
        return self.layer.kernel[...] * self.mask[...]


class MaskedLinear(Masked):
    """A dense layer under :class:`Masked`."""

    def __init__(self, in_features: int, out_features: int, *, mask: MaskMaker, kernel_init: Init = HE, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> None:
        super().__init__(nnx.Linear(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs), mask, rngs=rngs)


class MaskedConv(Masked):
    """A convolution under :class:`Masked`; ``options`` are those of ``nnx.Conv``."""

    def __init__(self, in_features: int, out_features: int, kernel_size: Sequence[int] = (3, 3), *, mask: MaskMaker,
                 kernel_init: Init = HE, bias_init: Init = ZEROS, rngs: nnx.Rngs, **options: Any) -> None:
        super().__init__(nnx.Conv(in_features, out_features, kernel_size, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs,
                                  **options), mask, rngs=rngs)
