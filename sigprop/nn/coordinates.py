"""Networks of coordinates, for physics-informed learning: of one point ``[coordinates]`` or many, and smooth where ``act`` is."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number, check_whole
from sigprop.init.coordinates import SirenFirst, fourier_features, siren
from sigprop.nn.checks import check_callable, checked_widths
from sigprop.nn.dense import MLP
from sigprop.nn.shared import XAVIER, ZEROS, Activation, Init

UNIT_BANDWIDTH = fourier_features()
SIREN_FIRST = SirenFirst()


class Frequencies(nnx.Variable):
    """Random frequencies that training does not move."""


class FourierFeatures(nnx.Module):
    """``[cos(x W), sin(x W)]`` for fixed random ``W`` (Tancik et al. 2020).

    Args:
        in_features: coordinates of a point.
        features: even, half of them cosines.
        kernel_init: of ``W``.

    Raises:
        InvalidInput: for counts out of range, and an initializer that cannot be called.
    """

    def __init__(self, in_features: int, features: int, *, kernel_init: Init = UNIT_BANDWIDTH, rngs: nnx.Rngs) -> None:
        check_whole("in_features", in_features)
        check_whole("features", features, 2)
        if features % 2:
            raise InvalidInput(f"features: {features} given; it must be even, half of them are cosines")
        check_callable(kernel_init=kernel_init)
        self.frequencies = Frequencies(kernel_init(rngs.params(), (in_features, features // 2)))

    def __call__(self, x: Float[Array, "*batch coordinates"]) -> Float[Array, "*batch features"]:
        phase = x @ self.frequencies[...]
        return jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], -1)


class PINN(nnx.Module):
    """A tanh network of the coordinates (Raissi et al. 2019), after Fourier features where ``frequency_init`` is given (Wang, Wang &
    Perdikaris 2021).

    Args:
        widths: of the input, the hidden layers and the output: three numbers or more. With Fourier features the first hidden width,
            even, is their number.
        frequency_init: of the fixed frequencies, such as :func:`sigprop.init.fourier_features`; ``None`` for none.
        kernel_init, bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for fewer than three widths, and as :class:`MLP` and :class:`FourierFeatures`.
    """

    def __init__(self, widths: Sequence[int], *, frequency_init: Init | None = None, kernel_init: Init = XAVIER, bias_init: Init = ZEROS,
                 act: Activation = nnx.tanh, rngs: nnx.Rngs) -> None:
        sizes = checked_widths("widths", widths, 3)
        self.features = nnx.data(None)
        if frequency_init is not None:
            self.features = FourierFeatures(sizes[0], sizes[1], kernel_init=frequency_init, rngs=rngs)
            sizes = sizes[1:]
        self.layers = MLP(sizes, kernel_init=kernel_init, bias_init=bias_init, act=act, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch coordinates"]) -> Float[Array, "*batch outputs"]:
        return self.layers(x if self.features is None else self.features(x))


class Siren(nnx.Module):
    """Layers ``sin(w0 (W x + b))`` and a linear one (Sitzmann et al. 2020).

    Args:
        widths: of the input, the hidden layers and the output: three numbers or more.
        w0: frequency of every layer, above 0.
        first_init: of the first kernel.
        kernel_init: of the others, ``sp.init.siren(w0)`` by default.
        bias_init: of all biases; the paper does not fix it.
        act: in place of the sine.

    Raises:
        InvalidInput: for fewer than three widths, a frequency that is not above 0, and what cannot be called.
    """

    def __init__(self, widths: Sequence[int], *, w0: float = 30.0, first_init: Init = SIREN_FIRST, kernel_init: Init | None = None,
                 bias_init: Init = ZEROS, act: Activation = jnp.sin, rngs: nnx.Rngs) -> None:
        sizes = checked_widths("widths", widths, 3)
        check_number("w0", w0, above=0.0)
        kernel_init = siren(w0) if kernel_init is None else kernel_init
        check_callable(first_init=first_init, kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.w0, self.act = w0, act
        self.layers = nnx.List([nnx.Linear(a, b, kernel_init=kernel_init if k else first_init, bias_init=bias_init, rngs=rngs)
                                for k, (a, b) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))])

    def __call__(self, x: Float[Array, "*batch coordinates"]) -> Float[Array, "*batch outputs"]:
        for layer in self.layers[:-1]:
            x = self.act(self.w0 * layer(x))
        return self.layers[-1](x)


class ModifiedMLP(nnx.Module):
    """Hidden layers that choose between two encodings of the input, ``h <- (1 - z) u + z v`` with ``z = act(W h + b)`` (Wang, Teng &
    Perdikaris 2021).

    Args:
        in_features, out_features: coordinates of a point, and outputs.
        width: of ``u``, ``v`` and every hidden layer.
        depth: hidden layers ``z``, 1 or more.
        kernel_init, bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for counts below 1, and what cannot be called.
    """

    def __init__(self, in_features: int, width: int, out_features: int, *, depth: int = 3, kernel_init: Init = XAVIER,
                 bias_init: Init = ZEROS, act: Activation = nnx.tanh, rngs: nnx.Rngs) -> None:
        for name, value in {"in_features": in_features, "width": width, "out_features": out_features, "depth": depth}.items():
            check_whole(name, value)
        check_callable(kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act

        def dense(a: int, b: int) -> nnx.Linear:
            return nnx.Linear(a, b, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

        self.u, self.v, self.first = (dense(in_features, width) for _ in range(3))
        self.layers = nnx.List([dense(width, width) for _ in range(depth)])
        self.head = dense(width, out_features)

    def __call__(self, x: Float[Array, "*batch coordinates"]) -> Float[Array, "*batch outputs"]:
        u, v, h = (self.act(layer(x)) for layer in (self.u, self.v, self.first))
        for layer in self.layers:
            z = self.act(layer(h))
            h = (1 - z) * u + z * v
        return self.head(h)

