"""Fans of an operation, counted from the shape of its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole


@dataclass(frozen=True)
class Fans:
    """How an operation uses the axes of its kernel.

    Axes that are neither inputs, outputs nor batch are the receptive field. Strides are per axis of the field, in order; one number
    stands for all. The counts are means over units away from the border: padding is not subtracted, and where a stride does not divide
    the kernel units differ.

    Attributes:
        in_axis, out_axis: axis, or axes, over inputs and outputs; ``()`` where there are none, as over the rows of an embedding.
        batch_axis: axes along which kernels of separate operations are stacked.
        groups: of a grouped convolution. Its kernel holds the inputs of one group and the outputs of all, as Flax stores it; a depthwise
            convolution has as many groups as channels.
        stride: of a convolution: an input unit feeds the outputs that it meets, fewer by this factor.
        transposed_stride: of a transposed convolution: an output unit is reached by fewer inputs by this factor.

    Raises:
        InvalidInput: for counts below 1; by ``count`` for axes that the kernel lacks or that have two roles, and for empty ones.
    """

    in_axis: int | tuple[int, ...] = -2
    out_axis: int | tuple[int, ...] = -1
    batch_axis: int | tuple[int, ...] = ()
    groups: int = 1
    stride: int | tuple[int, ...] = 1
    transposed_stride: int | tuple[int, ...] = 1

    def __post_init__(self) -> None:
        check_whole("groups", self.groups)
        for name in ("stride", "transposed_stride"):
            for step in _several(getattr(self, name)):
                check_whole(name, step)

    def count(self, shape: Sequence[int]) -> tuple[float, float]:
        """Fan-in (connections into one output unit) and fan-out (output units that one input unit feeds) of a kernel of this shape."""
        axes = {name: _axes(name, getattr(self, name), shape) for name in ("in_axis", "out_axis", "batch_axis")}
        used = [axis for some in axes.values() for axis in some]
        if len(set(used)) < len(used):
            raise InvalidInput(f"in_axis {self.in_axis}, out_axis {self.out_axis}, batch_axis {self.batch_axis}: an axis of shape "
                               f"{tuple(shape)} has two roles")
        if 0 in shape:
            raise InvalidInput(f"shape: {tuple(shape)} has an empty axis, so that its fan is 0")
        inputs, outputs = (prod(shape[a] for a in axes[name]) for name in ("in_axis", "out_axis"))
        if outputs % self.groups:
            raise InvalidInput(f"groups: {self.groups} given, they do not divide the {outputs} outputs of shape {tuple(shape)}")
        field = [shape[a] for a in range(len(shape)) if a not in used]
        fan_in = inputs * prod(field) / self._step("transposed_stride", len(field))
        return fan_in, outputs // self.groups * prod(field) / self._step("stride", len(field))

    def _step(self, name: str, rank: int) -> int:
        given = getattr(self, name)
        if not isinstance(given, tuple):
            return given**rank
        if len(given) != rank:
            raise InvalidInput(f"{name}: {given} has {len(given)} numbers, the kernel has {rank} axes of receptive field")
        return prod(given)


def _several(given: int | tuple[int, ...]) -> tuple[int, ...]:
    return given if isinstance(given, tuple) else (given,)


def _axes(name: str, given: int | tuple[int, ...], shape: Sequence[int]) -> tuple[int, ...]:
    """Axes counted from the front."""
    for axis in _several(given):
        if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
            raise InvalidInput(f"{name}: shape {tuple(shape)} has no axis {axis!r}; give the fans as numbers, or the axes")
    return tuple(axis % len(shape) for axis in _several(given))


PLAIN = Fans()  # a dense layer, or a convolution without stride or groups
