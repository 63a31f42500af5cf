"""Layers whose kernel is a function of their parameters: a Flax layer is called with the kernel in place of the one it holds."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, sqrt
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.nn.shared import HE, ZEROS, Init

_RELU = sqrt(2 / (1 - 1 / pi))  # sp.init.nfnet_gain("relu")


class Reparametrized(nnx.Module):
    """Calls ``layer`` with :meth:`kernel` in place of its own; subclasses write that method.

    Args:
        layer: a Flax layer that has a ``kernel``, outputs on its last axis.

    Raises:
        InvalidInput: where it has none.
    """

    def __init__(self, layer: Any) -> None:
        if not isinstance(getattr(layer, "kernel", None), nnx.Variable):
            raise InvalidInput(f"layer: {type(layer).__name__} given; it must be a Flax layer with a kernel, as nnx.Linear or nnx.Conv")
        self.layer = layer

    def kernel(self) -> Float[Array, "*axes outputs"]:
        """The kernel that the layer is called with."""
        raise NotImplementedError

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch outputs"]:
        graph, state = nnx.split(self.layer)
        state["kernel"] = self.layer.kernel.replace(self.kernel())
        layer: Any = nnx.merge(graph, state)
        return layer(x)


class WeightNorm(Reparametrized):
    """``W = g v / |v|``, the norm over all inputs of an output unit (Salimans & Kingma 2016, eq. 2).

    ``g = sqrt(2)`` keeps E[z²] through ReLU layers whatever the scale of ``v``.

    Args:
        layer: as in :class:`Reparametrized`; its kernel is ``v``.
        gain: first value of every ``g``, above 0.

    Raises:
        InvalidInput: for a gain that is not above 0, or a layer without a kernel.
    """

    def __init__(self, layer: Any, *, gain: float = sqrt(2)) -> None:
        super().__init__(layer)
        self.gain = nnx.Param(_gains(gain, layer))

    def kernel(self) -> Float[Array, "*axes outputs"]:
        v = self.layer.kernel[...]
        return self.gain[...] * v / jnp.sqrt(jnp.sum(v**2, axis=range(v.ndim - 1), keepdims=True))


class WeightStandardized(Reparametrized):
    """Kernels of mean 0 and variance 1/n over the n inputs of an output unit, times a gain (Qiao et al. 2019; Brock et al. 2021).

    Args:
        layer: as in :class:`Reparametrized`.
        gain: first value of the gains of all output units, above 0; by default that of ReLU (see :func:`sigprop.init.nfnet_gain`), larger
            than sqrt(2) because what the layer's inputs have in common is lost.
        epsilon: added to n times the variance.

    Raises:
        InvalidInput: for numbers that are not above 0, or a layer without a kernel.
    """

    def __init__(self, layer: Any, *, gain: float = _RELU, epsilon: float = 1e-6) -> None:
        super().__init__(layer)
        check_number("epsilon", epsilon, above=0.0)
        self.gain = nnx.Param(_gains(gain, layer))
        self.epsilon = epsilon

    def kernel(self) -> Float[Array, "*axes outputs"]:
        w = self.layer.kernel[...]
        inputs = tuple(range(w.ndim - 1))
        centred = w - w.mean(inputs, keepdims=True)
        return self.gain[...] * centred / jnp.sqrt(jnp.sum(centred**2, inputs, keepdims=True) + self.epsilon)


def _gains(gain: float, layer: Any) -> Float[Array, " outputs"]:
    check_number("gain", gain, above=0.0)
    return jnp.full(layer.kernel.shape[-1], gain, layer.kernel.dtype)


class WeightNormLinear(WeightNorm):
    """A dense layer under :class:`WeightNorm`."""

    def __init__(self, in_features: int, out_features: int, *, gain: float = sqrt(2), kernel_init: Init = HE, bias_init: Init = ZEROS,
                 rngs: nnx.Rngs) -> None:
        super().__init__(nnx.Linear(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs), gain=gain)


class WeightNormConv(WeightNorm):
    """A convolution under :class:`WeightNorm`; ``options`` are those of ``nnx.Conv``."""

    def __init__(self, in_features: int, out_features: int, kernel_size: Sequence[int] = (3, 3), *, gain: float = sqrt(2),
                 kernel_init: Init = HE, bias_init: Init = ZEROS, rngs: nnx.Rngs, **options: Any) -> None:
        super().__init__(nnx.Conv(in_features, out_features, kernel_size, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs,
                                  **options), gain=gain)


class StandardizedLinear(WeightStandardized):
    """A dense layer under :class:`WeightStandardized`."""

    def __init__(self, in_features: int, out_features: int, *, gain: float = _RELU, kernel_init: Init = HE,
                 bias_init: Init = ZEROS, rngs: nnx.Rngs) -> None:
        super().__init__(nnx.Linear(in_features, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs), gain=gain)


class StandardizedConv(WeightStandardized):
    """A convolution under :class:`WeightStandardized`; ``options`` are those of ``nnx.Conv``."""

    def __init__(self, in_features: int, out_features: int, kernel_size: Sequence[int] = (3, 3), *, gain: float = _RELU,
                 kernel_init: Init = HE, bias_init: Init = ZEROS, rngs: nnx.Rngs, **options: Any) -> None:
        super().__init__(nnx.Conv(in_features, out_features, kernel_size, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs,
                                  **options), gain=gain)
