"""What a check of initializers can find."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

from sigprop.network.law import aligned

CAUSES = {
    "stride of a transposed convolution": "each output is reached by the taps that fall on an input, 1 in {ratio:.4g}",
    "(out, in) kernel": "it is contracted along the axis that initializers take for the outputs",
    "axes not summed": "axes that initializers take for inputs are heads or examples, not summed over",
    "fused kernel": "its outputs are used as those of {parts} kernels, which initializers count as one",
    "groups": "each input feeds one group of outputs only",
    "stride": "each input is met by 1 in {ratio:.4g} taps",
    "mask": "a mask leaves {kept:.3g} of its entries",
    "other": "the operation is not the one that the shape suggests",
    "epsilon": "the weights are so small that the normalization after them divides by its epsilon",
}


@dataclass(frozen=True)
class Finding:
    """An initializer whose assumption does not hold.

    Attributes:
        leaf: path of the parameter.
        cause: a key of ``CAUSES``.
        factor: variance of what comes out over what the initializer (or the normalization) is meant to give.
        sentence: what is wrong, and how much.
        fix: which initializer or gain to use.
        counted, true: the fan that the initializer counted, and that of the operation; NaN for epsilons.
    """

    leaf: str
    cause: str
    factor: float
    sentence: str
    fix: str
    counted: float = float("nan")
    true: float = float("nan")

    def __str__(self) -> str:
        return f"{self.sentence} {self.fix}"


@dataclass(frozen=True, repr=False)
class Findings(Sequence[Finding]):
    """A list of findings that prints as a table.

    Attributes:
        unchecked: what could not be checked, and why; empty where everything was.
    """

    found: tuple[Finding, ...] = ()
    unchecked: str = ""

    @classmethod
    def of(cls, found: Iterable[Finding], unchecked: str = "") -> Findings:
        return cls(tuple(found), unchecked)

    @overload
    def __getitem__(self, index: int) -> Finding: ...

    @overload
    def __getitem__(self, index: slice) -> Findings: ...

    def __getitem__(self, index: int | slice) -> Finding | Findings:
        return Findings(self.found[index], self.unchecked) if isinstance(index, slice) else self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __repr__(self) -> str:
        """One line per finding: parameter, cause, fan counted, true fan, factor of the variance, fix."""
        head = ("parameter", "cause", "counted", "true fan", "variance x", "fix")
        lines = [head, *((f.leaf, f.cause, _shown(f.counted), _shown(f.true), _shown(f.factor), f.fix) for f in self.found)]
        note = [f"Not checked: {self.unchecked}"] if self.unchecked else []
        return "\n".join([aligned(lines, right={2, 3, 4}) if self.found else "No finding.", *note])

    __str__ = __repr__


def _shown(number: float) -> str:
    return "-" if number != number else f"{number:.4g}"
