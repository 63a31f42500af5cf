"""Fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_whole
from sigprop.nn.checks import check_callable, checked_widths, one_for_each
from sigprop.nn.shared import HE, ZEROS, Activation, Init, LayerMaker


class MLP(nnx.Module):
    """Layers with an activation after each but the last.

    Args:
        widths: of the input, the hidden layers and the output: two numbers or more.
        layer: makes each layer, called as ``layer(in_features, out_features, kernel_init=, bias_init=, rngs=)``: ``nnx.Linear``,
            :class:`WeightNormLinear`, or a ``functools.partial`` of :class:`MaskedLinear`; or a sequence of one for each.
        kernel_init, bias_init, act: of every layer, and after every layer but the last.

    Raises:
        InvalidInput: for fewer than two widths, widths that are not whole numbers of 1 or more, what cannot be called, and another number
            of makers than of layers.
    """

    def __init__(self, widths: Sequence[int], *, layer: LayerMaker | Sequence[LayerMaker] = nnx.Linear, kernel_init: Init = HE,
                 bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        sizes = checked_widths("widths", widths, 2)
        makers = one_for_each("layer", layer, len(sizes) - 1, "makers", "layers")
        for make in makers:
            check_callable(layer=make)
        check_callable(kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act
        self.layers = nnx.List([make(a, b, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
                                for make, a, b in zip(makers, sizes[:-1], sizes[1:], strict=True)])

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch outputs"]:
        for layer in self.layers[:-1]:
            x = self.act(layer(x))
        return self.layers[-1](x)


class Autoencoder(nnx.Module):
    """An encoder to ``bottleneck`` numbers and its mirror image, with an activation after every layer but the last (Hinton &
    Salakhutdinov 2006).

    Args:
        in_features: numbers of an input, and of its reconstruction.
        widths: of the hidden layers of the encoder, one or more; the decoder has them in reverse.
        bottleneck: width of the code.
        layer, kernel_init, bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: as :class:`MLP`.
    """

    def __init__(self, in_features: int, widths: Sequence[int], bottleneck: int, *, layer: LayerMaker = nnx.Linear,
                 kernel_init: Init = HE, bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        check_whole("in_features", in_features)
        check_whole("bottleneck", bottleneck)
        check_callable(act=act)
        down = (in_features, *checked_widths("widths", widths), bottleneck)
        self.act = act
        self.encoder, self.decoder = (
            MLP(sizes, layer=layer, kernel_init=kernel_init, bias_init=bias_init, act=act, rngs=rngs) for sizes in (down, down[::-1]))

    def encode(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch bottleneck"]:
        """The code, after the activation."""
        return self.act(self.encoder(x))

    def decode(self, code: Float[Array, "*batch bottleneck"]) -> Float[Array, "*batch features"]:
        """The reconstruction."""
        return self.decoder(code)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        return self.decode(self.encode(x))
