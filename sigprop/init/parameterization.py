"""Parameterizations in which the best learning rate does not move with width and depth.

Each object says for one width and depth how a weight starts, what multiplies it in the forward pass, and what multiplies its learning
rate. The learning rates are those of Adam and its like, whose updates do not depend on the size of the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sigprop.init.checks import check_number, check_whole
from sigprop.init.independent import Normal


class Scaling(NamedTuple):
    """How one weight is scaled.

    Attributes:
        variance: of its entries at initialization.
        learning_rate: factor on the learning rate.
        multiplier: factor on the weight in the forward pass.
    """

    variance: float
    learning_rate: float
    multiplier: float = 1.0

    def initializer(self) -> Normal:
        return Normal(self.variance)


@dataclass(frozen=True)
class MuP:
    """The maximal update parametrization (Yang & Hu 2021; Yang et al. 2022, table 3), without multipliers.

    At the base width all is standard: variances 1/n and one learning rate. Biases start at 0 with a factor of 1.

    Attributes:
        width, base_width: of the network, and of the one that the learning rate was tuned on.

    Raises:
        InvalidInput: where a number is not a whole number of 1 or more.
    """

    width: int
    base_width: int

    def __post_init__(self) -> None:
        check_whole("width", self.width)
        check_whole("base_width", self.base_width)

    def input(self, fan_in: int) -> Scaling:
        """A weight whose outputs grow with the width and whose inputs do not; embeddings too, with fan-in 1."""
        check_whole("fan_in", fan_in)
        return Scaling(1 / fan_in, 1.0)

    def hidden(self, fan_in: int) -> Scaling:
        """A weight whose inputs and outputs grow with the width."""
        check_whole("fan_in", fan_in)
        return Scaling(1 / fan_in, self.base_width / self.width)

    def output(self, fan_in: int) -> Scaling:
        """A weight whose inputs grow with the width and whose outputs do not."""
        check_whole("fan_in", fan_in)
        return Scaling(self.base_width / self.width / fan_in, self.base_width / self.width)


@dataclass(frozen=True)
class UnitMuP:
    """The unit-scaled maximal update parametrization (Blake et al. 2024, table 2): every weight starts with variance 1.

    Biases and scales have the learning-rate factor ``branch_learning_rate`` inside residual branches, 1 outside.

    Attributes:
        branches: residual branches of the network, 1 where it has none. Weights inside them learn slower by its root.

    Raises:
        InvalidInput: where a number is not a whole number of 1 or more.
    """

    branches: int = 1

    def __post_init__(self) -> None:
        check_whole("branches", self.branches)

    @property
    def branch_learning_rate(self) -> float:
        """Further factor on the learning rates of all parameters inside residual branches."""
        return self.branches**-0.5

    def input(self, fan_out: int) -> Scaling:
        """An embedding: rows of ``fan_out`` numbers."""
        check_whole("fan_out", fan_out)
        return Scaling(1.0, fan_out**-0.5)

    def hidden(self, fan_in: int) -> Scaling:
        """A weight inside a residual branch, or of a network without any."""
        check_whole("fan_in", fan_in)
        return Scaling(1.0, fan_in**-0.5 * self.branch_learning_rate, fan_in**-0.5)

    def output(self, fan_in: int) -> Scaling:
        """The last weight; its backward pass is multiplied by ``fan_in ** -0.5`` in place of the multiplier."""
        check_whole("fan_in", fan_in)
        return Scaling(1.0, 1.0, 1 / fan_in)


@dataclass(frozen=True)
class CompleteP:
    """CompleteP, for residual networks of any width and depth (Dey et al. 2025, table 1).

    Attributes:
        width, base_width, depth, base_depth: of the network, and of the one that the learning rate was tuned on; depth counts blocks.
        alpha: exponent of the depth, between 0.5 and 1: 1 is CompleteP itself.
        variance: base variance of input and output weights, and of hidden weights at the base width; above 0.

    Raises:
        InvalidInput: for numbers out of range.
    """

    width: int
    base_width: int
    depth: int
    base_depth: int
    alpha: float = 1.0
    variance: float = 0.02**2

    def __post_init__(self) -> None:
        for name in ("width", "base_width", "depth", "base_depth"):
            check_whole(name, getattr(self, name))
        check_number("alpha", self.alpha, 0.5, 1.0)
        check_number("variance", self.variance, above=0.0)

    @property
    def residual(self) -> float:
        """Multiplier of each residual branch."""
        return self._deeper**-self.alpha

    @property
    def branch_learning_rate(self) -> float:
        """Learning-rate factor of biases and normalization scales inside branches."""
        return self._deeper ** (self.alpha - 1)

    @property
    def weight_decay(self) -> float:
        """Factor on the weight decay of hidden weights, where it is multiplied by their learning rate as in AdamW."""
        return self._wider

    def input(self) -> Scaling:
        """An embedding."""
        return Scaling(self.variance, 1.0)

    def hidden(self) -> Scaling:
        """A weight inside a residual branch."""
        return Scaling(self.variance / self._wider, self.branch_learning_rate / self._wider)

    def output(self) -> Scaling:
        """The last weight."""
        return Scaling(self.variance, 1.0, 1 / self._wider)

    @property
    def _wider(self) -> float:
        return self.width / self.base_width

    @property
    def _deeper(self) -> float:
        return self.depth / self.base_depth
