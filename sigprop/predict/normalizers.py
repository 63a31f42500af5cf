"""Normalizations of a model, and whether their epsilon is small beside what they divide by.

LayerNorm, RMSNorm, GroupNorm, batch and weight normalization all compute ``rsqrt(s + eps)`` (or a square root that is divided by) of a
mean square or variance ``s``. They make the scale of their input irrelevant only while ``s`` is large beside ``eps``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sigprop.engine import Known
from sigprop.predict.probe import Probe
from sigprop.tracing import Op

_SAME = {"broadcast_in_dim", "reshape", "convert_element_type", "squeeze", "expand_dims", "transpose", "copy", "stop_gradient"}
_EPSILON = 10.0  # mean square over epsilon
_LARGEST_EPSILON = 0.5  # an added constant above this is not there to avoid a division by zero


@dataclass(frozen=True)
class Normalizer:
    """One ``rsqrt(s + eps)``.

    Attributes:
        value: number of the result in the program.
        path, source: module path and the user's line.
        log10_mean_square: of the predicted mean of ``s``; ``-inf`` where that is zero, NaN where it cannot be predicted.
        epsilon: the constant added to it.
        live: whether ``s`` depends on the inputs (else it is a function of parameters only).
    """

    value: int
    path: str
    source: str
    log10_mean_square: float
    epsilon: float
    live: bool

    @property
    def ratio(self) -> float:
        """Mean square over epsilon: the normalization works where this is large."""
        return 10 ** (self.log10_mean_square - math.log10(self.epsilon))

    @property
    def dominated(self) -> bool:
        """Whether the epsilon changes the result by more than about 5 %; exact zeros are another matter."""
        return self.log10_mean_square > -math.inf and self.ratio < _EPSILON

    @property
    def result(self) -> float:
        """Mean square of what comes out, in place of 1."""
        return self.ratio / (self.ratio + 1)

    @property
    def missing(self) -> float:
        """Factor of the weights before it that makes the mean square a thousand times the epsilon."""
        return (1000 / self.ratio) ** 0.5


def normalizers(probe: Probe) -> list[Normalizer]:
    """Every inverse or direct square root of a sum with a small positive constant, in program order."""
    found = []
    for op in probe.graph.ops:
        if op.name not in ("rsqrt", "sqrt") and not (op.name == "pow" and _constant(probe, op.inputs[1]) in (-0.5, 0.5)):
            continue
        added = _sum_with_constant(probe, op.inputs[0])
        if added is not None:
            value, epsilon = added
            found.append(Normalizer(op.outputs[0], op.path, op.source, probe.log10_mean(value), epsilon, op.outputs[0] in probe.live))
    return found


def inverse_scales(probe: Probe, found: list[Normalizer]) -> set[int]:
    """Values that are the result of a normalizer on the inputs, perhaps reshaped or times a parameter: what the data are multiplied by."""
    scales = {n.value for n in found if n.live}
    for op in probe.graph.ops:
        data = [i for i in op.inputs if i in probe.live]
        if len(data) == 1 and data[0] in scales and (op.name in _SAME or op.name in ("mul", "div")):
            scales.update(op.outputs)
    return scales


def _sum_with_constant(probe: Probe, value: int) -> tuple[int, float] | None:
    op: Op | None = probe.producer.get(value)
    while op is not None and op.name in _SAME:
        op = probe.producer.get(op.inputs[0])
    if op is None or op.name not in ("add", "max"):
        return None
    for position, other in ((0, 1), (1, 0)):
        epsilon = _constant(probe, op.inputs[other])
        if epsilon is not None and 0 < epsilon <= _LARGEST_EPSILON and op.inputs[position] not in probe.graph.constants:
            return op.inputs[position], epsilon
    return None


def _constant(probe: Probe, value: int) -> float | None:
    """The number that a deterministic value of the program holds everywhere, if there is one."""
    found = probe.env[value]
    if not isinstance(found, Known) or value in probe.live:
        return None
    array = np.asarray(found.array)
    if array.size == 0 or not np.issubdtype(array.dtype, np.floating):
        return None
    first = float(array.reshape(-1)[0])
    return first if np.all(array == first) else None
