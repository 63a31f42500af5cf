"""Transformer blocks, with the norms and the scale of the branches where one wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Bool, Float

from sigprop.init.checks import check_number, check_whole
from sigprop.nn.checks import check_callable, check_divides
from sigprop.nn.shared import XAVIER, ZEROS, Activation, Init, NormMaker

Placement = Callable[..., Any]  # (features, *, norm, rngs) -> a residual connection


class PreNorm(nnx.Module):
    """``x + branch f(norm(x))`` (Xiong et al. 2020).

    Args:
        features: channels of ``x``.
        branch: scale of the branch.
        norm: ``nnx.LayerNorm``, ``nnx.RMSNorm``, or another that is called as ``norm(features, rngs=)``.

    Raises:
        InvalidInput: for a scale that is not a finite number, and a norm that cannot be called.
    """

    def __init__(self, features: int, *, branch: float = 1.0, norm: NormMaker = nnx.LayerNorm, rngs: nnx.Rngs) -> None:
        check_number("branch", branch)
        check_callable(norm=norm)
        self.norm = norm(features, rngs=rngs)
        self.branch = branch

    def __call__(self, x: Float[Array, "*batch features"], f: Callable[..., Any]) -> Float[Array, "*batch features"]:
        return x + _times(self.branch, f(self.norm(x)))


class PostNorm(nnx.Module):
    """``norm(stream x + branch f(x))`` (Vaswani et al. 2017); with ``stream=deep_norm(layers).alpha`` DeepNorm (Wang et al. 2022).

    Args:
        features, branch, norm: as in :class:`PreNorm`.
        stream: scale of the residual stream.

    Raises:
        InvalidInput: as :class:`PreNorm`.
    """

    def __init__(self, features: int, *, stream: float = 1.0, branch: float = 1.0, norm: NormMaker = nnx.LayerNorm,
                 rngs: nnx.Rngs) -> None:
        check_number("stream", stream)
        check_number("branch", branch)
        check_callable(norm=norm)
        self.norm = norm(features, rngs=rngs)
        self.stream, self.branch = stream, branch

    def __call__(self, x: Float[Array, "*batch features"], f: Callable[..., Any]) -> Float[Array, "*batch features"]:
        return self.norm(_times(self.stream, x) + _times(self.branch, f(x)))


class SandwichNorm(nnx.Module):
    """``x + branch norm(f(norm(x)))`` (Ding et al. 2021).

    Args:
        features, branch, norm: as in :class:`PreNorm`.

    Raises:
        InvalidInput: as :class:`PreNorm`.
    """

    def __init__(self, features: int, *, branch: float = 1.0, norm: NormMaker = nnx.LayerNorm, rngs: nnx.Rngs) -> None:
        check_number("branch", branch)
        check_callable(norm=norm)
        self.before, self.after = norm(features, rngs=rngs), norm(features, rngs=rngs)
        self.branch = branch

    def __call__(self, x: Float[Array, "*batch features"], f: Callable[..., Any]) -> Float[Array, "*batch features"]:
        return x + _times(self.branch, self.after(f(self.before(x))))


def _times(scale: float, x: Any) -> Any:
    return x if scale == 1 else scale * x


class FeedForward(nnx.Module):
    """Two dense layers with an activation in between.

    Args:
        features, hidden: widths outside and inside.
        kernel_init, bias_init, act: as in :class:`MLP`.

    Raises:
        InvalidInput: for widths below 1, and what cannot be called.
    """

    def __init__(self, features: int, hidden: int, *, kernel_init: Init = XAVIER, bias_init: Init = ZEROS, act: Activation = nnx.gelu,
                 rngs: nnx.Rngs) -> None:
        check_whole("features", features)
        check_whole("hidden", hidden)
        check_callable(kernel_init=kernel_init, bias_init=bias_init, act=act)
        self.act = act
        self.up = nnx.Linear(features, hidden, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)
        self.down = nnx.Linear(hidden, features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        return self.down(self.act(self.up(x)))


class EncoderBlock(nnx.Module):
    """Self-attention and a :class:`FeedForward`, each on a residual connection (Vaswani et al. 2017).

    Args:
        features, heads: width, and the number of heads that divides it.
        hidden: width inside the feed-forward layer, ``4 * features`` by default.
        causal: whether a token sees those before it only, as in a language model.
        placement: makes each residual connection: :class:`PreNorm`, :class:`PostNorm`, :class:`SandwichNorm` or a ``functools.partial`` of
            them with their scales.
        kernel_init: queries and keys.
        value_init: values, outputs and the feed-forward layer, ``kernel_init`` by default: DeepNorm, T-Fixup and GPT-2 shrink these.
        bias_init, act: of all layers, and inside the feed-forward one.

    Raises:
        InvalidInput: for widths below 1, heads that do not divide the width, and what cannot be called.
    """

    def __init__(self, features: int, heads: int, *, hidden: int | None = None, causal: bool = False, placement: Placement = PreNorm,
                 kernel_init: Init = XAVIER, value_init: Init | None = None, bias_init: Init = ZEROS, act: Activation = nnx.gelu,
                 rngs: nnx.Rngs) -> None:
        value_init = kernel_init if value_init is None else value_init
        check_callable(placement=placement)
        self.causal = causal
        self.attention = _attention(features, heads, kernel_init, value_init, bias_init, rngs)
        self.feed_forward = FeedForward(features, 4 * features if hidden is None else hidden, kernel_init=value_init, bias_init=bias_init,
                                        act=act, rngs=rngs)
        self.attended, self.fed = placement(features, rngs=rngs), placement(features, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch tokens features"],
                 mask: Bool[Array, "*batch heads tokens tokens"] | None = None) -> Float[Array, "*batch tokens features"]:
        """``mask`` is true, or 1, where a token may look; one head stands for all."""
        if self.causal:
            mask = nnx.combine_masks(mask, nnx.make_causal_mask(x[..., 0]))
        x = self.attended(x, lambda y: self.attention(y, mask=mask))
        return self.fed(x, self.feed_forward)


class DecoderBlock(nnx.Module):
    """Causal self-attention, attention to what an encoder made, and a :class:`FeedForward` (Vaswani et al. 2017).

    A decoder without an encoder is an :class:`EncoderBlock` with ``causal=True``.

    Args:
        features, heads, hidden, placement, kernel_init, value_init, bias_init, act: as in :class:`EncoderBlock`.

    Raises:
        InvalidInput: as :class:`EncoderBlock`.
    """

    def __init__(self, features: int, heads: int, *, hidden: int | None = None, placement: Placement = PreNorm,
                 kernel_init: Init = XAVIER, value_init: Init | None = None, bias_init: Init = ZEROS, act: Activation = nnx.gelu,
                 rngs: nnx.Rngs) -> None:
        value_init = kernel_init if value_init is None else value_init
        check_callable(placement=placement)
        self.attention, self.cross = (_attention(features, heads, kernel_init, value_init, bias_init, rngs) for _ in range(2))
        self.feed_forward = FeedForward(features, 4 * features if hidden is None else hidden, kernel_init=value_init, bias_init=bias_init,
                                        act=act, rngs=rngs)
        self.attended, self.crossed, self.fed = (placement(features, rngs=rngs) for _ in range(3))

    def __call__(self, x: Float[Array, "*batch tokens features"],
                 memory: Float[Array, "*batch sources features"]) -> Float[Array, "*batch tokens features"]:
        mask = nnx.make_causal_mask(x[..., 0])
        x = self.attended(x, lambda y: self.attention(y, mask=mask))
        x = self.crossed(x, lambda y: self.cross(y, memory))
        return self.fed(x, self.feed_forward)


def _attention(features: int, heads: int, kernel_init: Init, value_init: Init, bias_init: Init, rngs: nnx.Rngs) -> nnx.MultiHeadAttention:
    check_whole("features", features)
    check_divides("heads", heads, features, "features")
    check_callable(kernel_init=kernel_init, value_init=value_init, bias_init=bias_init)
    attention = nnx.MultiHeadAttention(heads, features, kernel_init=kernel_init, out_kernel_init=value_init, bias_init=bias_init,
                                       decode=False, rngs=rngs)
    attention.value = nnx.LinearGeneral(features, (heads, features // heads), kernel_init=value_init, bias_init=bias_init, rngs=rngs)
    return attention
