"""Residual networks for images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_whole
from sigprop.nn.checks import check_callable, check_instance, checked_widths
from sigprop.nn.shared import HE, ZEROS, Activation, Init, same
from sigprop.nn.start import Plain, ZeroGamma

ZERO_GAMMA = ZeroGamma()
_LAYERS = 2  # convolutions of a branch


class _Block(nnx.Module):
    """Two convolutions, and a shortcut that is the identity unless the shape changes.

    Args:
        in_features, out_features, stride: the first convolution has the stride.
        start: how the branch begins: :class:`Plain`, :class:`Gamma`, :class:`ZeroGamma`, :class:`SkipInit`, :class:`ReZero`,
            :class:`Fixup`, :class:`LayerScale`.
        branches: number of branches of the network, which Fixup depends on.
        kernel_init, bias_init, act: of the convolutions; biases only where the start has no normalization or shifts.

    Raises:
        InvalidInput: for counts below 1, a start of another kind, and what cannot be called.
    """

    def __init__(self, in_features: int, out_features: int, *, stride: int = 1, start: Plain = ZERO_GAMMA, branches: int = 1,
                 kernel_init: Init = HE, bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        checked_widths("in_features", [in_features])
        checked_widths("out_features", [out_features])
        check_whole("stride", stride)
        check_start(start)
        check_callable(kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act

        def conv(inputs: int, step: int, last: bool) -> nnx.Conv:
            init = start.kernel(kernel_init, branches, _LAYERS, last)
            return nnx.Conv(inputs, out_features, (3, 3), (step, step), use_bias=start.biased, kernel_init=init, bias_init=bias_init,
                            rngs=rngs)

        self.norms = nnx.List([start.norm(f, rngs) for f in self._normed(in_features, out_features)])
        self.befores = nnx.List([start.before(rngs) for _ in range(_LAYERS)])
        self.convs = nnx.List([conv(in_features, stride, False), conv(out_features, 1, True)])
        self.last_norm = self._last(start, out_features, rngs)
        self.gain = start.gain(out_features, rngs)
        self.shortcut: Any = same if stride == 1 and in_features == out_features else nnx.Conv(
            in_features, out_features, (1, 1), (stride, stride), use_bias=False, kernel_init=kernel_init, rngs=rngs)

    activated = False  # whether what a block gives has been through the activation

    def _normed(self, in_features: int, out_features: int) -> tuple[int, ...]:
        """Channels at the norms of the branch but the last."""
        raise NotImplementedError

    def _last(self, start: Plain, features: int, rngs: nnx.Rngs) -> Any:
        """After the last convolution."""
        raise NotImplementedError

    def branch(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns outputs"]:
        """What the block adds to its shortcut."""
        raise NotImplementedError


class PostActivation(_Block):
    """``act(x + norm(conv(act(norm(conv(x))))))`` (He et al. 2015): at a start of 0 the identity on what is not negative."""

    activated = True

    def _normed(self, in_features: int, out_features: int) -> tuple[int, ...]:
        return (out_features,)

    def _last(self, start: Plain, features: int, rngs: nnx.Rngs) -> Any:
        return start.last_norm(features, rngs)

    def branch(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns outputs"]:
        y = self.act(self.norms[0](self.convs[0](self.befores[0](x))))
        return self.gain(self.last_norm(self.convs[1](self.befores[1](y))))

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns outputs"]:
        return self.act(self.shortcut(x) + self.branch(x))


class PreActivation(_Block):
    """``x + conv(act(norm(conv(act(norm(x))))))`` (He et al. 2016), with a last norm for the starts that are its scale."""

    def _normed(self, in_features: int, out_features: int) -> tuple[int, ...]:
        return in_features, out_features

    def _last(self, start: Plain, features: int, rngs: nnx.Rngs) -> Any:
        return start.last_norm(features, rngs) if start.closed else same

    def branch(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns outputs"]:
        for norm, before, conv in zip(self.norms, self.befores, self.convs, strict=True):
            x = conv(before(self.act(norm(x))))
        return self.gain(self.last_norm(x))

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch rows columns outputs"]:
        return self.shortcut(x) + self.branch(x)


class ResNet(nnx.Module):
    """A convolution, stages of residual blocks, the mean over pixels, and a dense layer.

    Args:
        in_features: channels of an image.
        widths: channels of each stage, one or more; every stage but the first halves the image.
        blocks: of each stage, 1 or more.
        out_features: outputs.
        block: :class:`PreActivation` or :class:`PostActivation`.
        start: how each branch begins, as in these classes.
        kernel_init, bias_init, act: of all layers; the start may change the kernels of branches and classifier.

    Raises:
        InvalidInput: for empty widths, counts below 1, a start of another kind, and what cannot be called.
    """

    def __init__(self, in_features: int, widths: Sequence[int], out_features: int, *, blocks: int = 2,
                 block: Callable[..., Any] = PreActivation, start: Plain = ZERO_GAMMA, kernel_init: Init = HE, bias_init: Init = ZEROS,
                 act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        checked_widths("in_features", [in_features])
        sizes = checked_widths("widths", widths)
        check_whole("out_features", out_features)
        check_whole("blocks", blocks)
        check_start(start)
        check_callable(block=block, kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.stem = nnx.Conv(in_features, sizes[0], (3, 3), use_bias=False, kernel_init=kernel_init, rngs=rngs)
        stages = [width for width in sizes for _ in range(blocks)]
        self.blocks = nnx.List([
            block(a, b, stride=2 if k and k % blocks == 0 else 1, start=start, branches=len(stages), kernel_init=kernel_init,
                  bias_init=bias_init, act=act, rngs=rngs)
            for k, (a, b) in enumerate(zip([sizes[0], *stages], stages, strict=False))])
        self.opening, self.closing = (act, same) if self.blocks[0].activated else (same, act)
        self.head = nnx.Linear(sizes[-1], out_features, kernel_init=start.head(kernel_init), bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch outputs"]:
        x = self.opening(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.closing(x).mean((-3, -2)))


def check_start(start: Any) -> None:
    """Refuse what is not the start of a branch."""
    check_instance("start", start, Plain, "Plain(), Gamma(1.0), ZeroGamma(), SkipInit(), ReZero(), Fixup(), LayerScale()")
