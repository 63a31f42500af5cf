"""Networks that make images by transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.nn.checks import check_callable, check_instance, checked_widths
from sigprop.nn.convolution import Convolution, Transposed
from sigprop.nn.densenet import no_norm
from sigprop.nn.shared import HE, ZEROS, Activation, Init, NormMaker

TWICE = Transposed()
TILED = Transposed(kernel=2)


class Decoder(nnx.Module):
    """From a code to an image: a dense layer to a small image, transposed convolutions, and a convolution (Kingma & Welling 2014; Radford
    et al. 2016).

    Args:
        code: numbers of a code.
        size: height and width of the small image; each layer multiplies them by its stride.
        widths: channels of the small image and after each transposed convolution, one or more.
        out_features: channels of the image.
        layer: the transposed convolutions; a kernel that is its stride, or circular padding, treats border pixels like the others.
        kernel_init: of all kernels; ``None`` is He's on the fans of each operation, ``C_in k²/s²`` of a transposed convolution.
        bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for empty widths, counts below 1, another kind of layer, and what cannot be called.
    """

    def __init__(self, code: int, size: int, widths: Sequence[int], out_features: int, *, layer: Transposed = TWICE,
                 kernel_init: Init | None = None, bias_init: Init = ZEROS, act: Activation = nnx.relu, rngs: nnx.Rngs) -> None:
        for name, value in {"code": code, "size": size, "out_features": out_features}.items():
            check_whole(name, value)
        sizes = checked_widths("widths", widths)
        check_instance("layer", layer, Transposed, "Transposed(kernel=4, stride=2), Transposed(kernel=2, stride=2)")
        check_callable(kernel_init=kernel_init or HE, bias_init=bias_init, act=act)
        self.act = act
        self.image = (size, size, sizes[0])
        self.dense = nnx.Linear(code, size * size * sizes[0], kernel_init=kernel_init or HE, bias_init=bias_init, rngs=rngs)
        self.layers = nnx.List([layer(a, b, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
                                for a, b in zip(sizes[:-1], sizes[1:], strict=True)])
        self.head = Convolution(padding=layer.padding)(sizes[-1], out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

    def __call__(self, code: Float[Array, "*batch code"]) -> Float[Array, "*batch height width channels"]:
        x = self.act(self.dense(code).reshape(*code.shape[:-1], *self.image))
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


class UNet(nnx.Module):
    """Means over 2 by 2 pixels on the way down, transposed convolutions on the way up, and the images of the way down beside those of the
    way up (Ronneberger et al. 2015).

    Args:
        in_features, out_features: channels of an image, and of the result of the same size.
        widths: channels at each resolution, finest first, two or more; heights and widths of images are multiples of ``2^(levels - 1)``.
        up: the transposed convolutions, of stride 2.
        norm: before each activation: :func:`no_norm`, or another that is called as ``norm(features, rngs=)``.
        kernel_init: of all kernels; ``None`` is He's on the fans of each operation.
        bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for fewer than two widths, counts below 1, another kind of layer, and what cannot be called; by a call for images
            that cannot be halved so often.
    """

    def __init__(self, in_features: int, widths: Sequence[int], out_features: int, *, up: Transposed = TILED,
                 norm: NormMaker = no_norm, kernel_init: Init | None = None, bias_init: Init = ZEROS, act: Activation = nnx.relu,
                 rngs: nnx.Rngs) -> None:
        check_whole("in_features", in_features)
        check_whole("out_features", out_features)
        sizes = checked_widths("widths", widths, 2)
        check_instance("up", up, Transposed, "Transposed(kernel=4, stride=2), Transposed(kernel=2, stride=2)")
        if up.stride != 2:
            raise InvalidInput(f"up: a stride of {up.stride} given; it must be 2, since images are halved on the way down")
        check_callable(norm=norm, kernel_init=kernel_init or HE, bias_init=bias_init, act=act)
        self.act = act

        def conv(kind: Convolution, a: int, b: int) -> nnx.Module:
            return kind(a, b, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

        plain = Convolution(padding=up.padding)
        self.down = nnx.List([conv(plain, a, b) for a, b in zip((in_features, *sizes[:-1]), sizes, strict=True)])
        self.down_norms = nnx.List([norm(b, rngs=rngs) for b in sizes])
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))  # coarse and fine, on the way up
        self.up = nnx.List([conv(up, a, b) for a, b in pairs])
        self.merge = nnx.List([conv(plain, 2 * b, b) for _, b in pairs])
        self.up_norms = nnx.List([norm(b, rngs=rngs) for _, b in pairs])
        self.head = conv(Convolution(1), sizes[0], out_features)

    def __call__(self, x: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch height width outputs"]:
        self._check_image(x)
        seen = []
        for k, (layer, norm) in enumerate(zip(self.down, self.down_norms, strict=True)):
            x = self.act(norm(layer(nnx.avg_pool(x, (2, 2), (2, 2)) if k else x)))
            seen.append(x)
        for up, merge, norm, beside in zip(self.up, self.merge, self.up_norms, seen[-2::-1], strict=True):
            x = self.act(norm(merge(jnp.concatenate([self.act(up(x)), beside], -1))))
        return self.head(x)

    def _check_image(self, x: Float[Array, "*batch height width channels"]) -> None:
        step = 2 ** (len(self.down) - 1)
        for name, size in zip(("height", "width"), x.shape[-3:-1], strict=True):
            if size % step:
                raise InvalidInput(f"x: its {name} is {size}; it must be a multiple of {step}, to be halved {len(self.down) - 1} times")
