"""What one wide layer makes of variances and correlations of pre-activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.gaussian import Function, moment1, moment2, recognize
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.init.checks import check_number
from sigprop.types import Estimate

_ASIDE, _JUMP = 2e-5, 1e-2  # change of an activation in twice this distance that is a jump


class Layer(Protocol):
    """Maps of one layer, or of one block of a network: from the mean square ``q`` of what it takes in, and the correlation ``c`` of two
    inputs, to those of what it gives. Everything about phases, fixed points and depth scales follows from these five.

    Every method takes and gives float64 arrays, which broadcast, in an ``Estimate(value, error)``.
    """

    @property
    def activation(self) -> Activation: ...

    @property
    def weight_variance(self) -> Any: ...

    @property
    def bias_variance(self) -> Any: ...

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        """Mean square; ``c``, between the tokens of a sequence, matters to attention alone."""
        ...

    def variance_slope(self, q: Any) -> Estimate:
        """Its derivative, by which a deviation from a fixed point is multiplied; of tokens that are alike."""
        ...

    def chi(self, q: Any) -> Estimate:
        """Growth of the mean square of gradients."""
        ...

    def covariance(self, c: Any, q: Any) -> Estimate:
        """Covariance of two inputs of mean square ``q`` and correlation ``c``."""
        ...

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        """Slope of the map of correlations, times what ``q`` is multiplied by: at a fixed point ``q`` the slope itself."""
        ...


@dataclass(frozen=True)
class Maps:
    """A fully connected layer ``z -> W f(z) + b`` of infinite width, with Gaussian pre-activations ``z`` (Poole et al. 2016).

    Every method takes and gives float64 arrays, which broadcast, in an ``Estimate(value, error)``.

    Attributes:
        activation: elementwise function of JAX, or its name as in :func:`sigprop.init.gain`.
        weight_variance: ``sigma_w^2``, the variance of a weight times its fan-in, at least 0.
        bias_variance: ``sigma_b^2``, at least 0.

    Raises:
        InvalidInput: for unknown names and negative variances; by the slopes, for functions that JAX cannot differentiate.
    """

    activation: Activation
    weight_variance: float
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        check_number("weight_variance", self.weight_variance, 0.0)
        check_number("bias_variance", self.bias_variance, 0.0)
        function(self.activation)

    @cached_property
    def _f(self) -> Function:
        return exactly(function(self.activation), "activation")

    @cached_property
    def _slope(self) -> Function:
        f = function(self.activation)
        return exactly(derivative(f), "derivative of activation", f)

    @cached_property
    def _jumps(self) -> list[float]:
        at = np.array(sorted({0.0, *recognize(self._f).kinks}))
        below, above = self._f(at - _ASIDE), self._f(at + _ASIDE)
        return list(at[abs(above - below) > _JUMP * (1 + abs(above))])

    def variance(self, q: Any, c: Any = 1.0) -> Estimate:
        """``sigma_w^2 E[f(z)^2] + sigma_b^2`` for ``E[z^2] = q``, whatever ``c`` (Poole et al. 2016, equation 3)."""
        return affine(moment1([self._f, self._f], 0.0, _array(q)), self.weight_variance, self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        """Its derivative, ``sigma_w^2 E[f(z) f'(z) z] / q``, by which a deviation from a fixed point is multiplied in a layer."""
        q = _array(q)
        with np.errstate(divide="ignore", invalid="ignore"):
            return affine(moment1([self._f, self._slope], 0.0, q, degree=1), self.weight_variance / np.sqrt(q))

    def chi(self, q: Any) -> Estimate:
        """``sigma_w^2 E[f'(z)^2]``: growth of gradients per layer, and of the distance of two nearby inputs (Poole et al. 2016)."""
        return affine(moment1([self._slope, self._slope], 0.0, _array(q)), self.weight_variance)

    def covariance(self, c: Any, q: Any) -> Estimate:
        """``sigma_w^2 E[f(z1) f(z2)] + sigma_b^2`` for variances ``q`` and correlation ``c`` (Poole et al. 2016, equation 5)."""
        if alike(c):
            return self.variance(q)
        c, q = np.broadcast_arrays(_array(c), _array(q))
        return affine(moment2([self._f], [self._f], q, q, c * q), self.weight_variance, self.bias_variance)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        """``sigma_w^2 E[f'(z1) f'(z2)]``, the slope of the map of correlations at a fixed point ``q`` (Schoenholz et al. 2017).

        Raises:
            InvalidInput: where the activation jumps: equal inputs part then at an infinite rate, of which ``f'`` knows nothing.
        """
        if self._jumps:
            raise InvalidInput(f"activation: {self.activation!r} jumps at {', '.join(f'{x:g}' for x in self._jumps)}, of which its "
                               "derivative does not know; smooth it, by erf of a large slope, or follow correlations with trajectory")
        if alike(c):
            return self.chi(q)
        c, q = np.broadcast_arrays(_array(c), _array(q))
        return affine(moment2([self._slope], [self._slope], q, q, c * q), self.weight_variance)

    def variance_curvature(self, q: Any) -> Estimate:
        """Second derivative of the map of variances, ``sigma_w^2 E[f(z)^2 He_4(z / sqrt(q))] / (4 q^2)``."""
        q = _array(q)
        return affine(moment1([self._f, self._f], 0.0, q, degree=4), self.weight_variance / (4 * q**2))

    def noise(self, q: Any) -> Estimate:
        """``sigma_w^4 Var[f(z)^2]``: what ``n`` units add to the variance of a mean square, times ``n``."""
        second, fourth = (moment1([self._f] * k, 0.0, _array(q)) for k in (2, 4))
        error = fourth.error + 2 * abs(second.value) * second.error
        return affine(Estimate(fourth.value - second.value**2, error, fourth.method), self.weight_variance**2)


def affine(found: Estimate, factor: Any, offset: Any = 0.0) -> Estimate:
    """``factor`` times what was found, plus ``offset``."""
    return found._replace(value=factor * found.value + offset, error=abs(factor) * found.error)


def alike(c: Any) -> bool:
    """Whether the two inputs are one, where one integral does for two."""
    return isinstance(c, float) and c == 1.0


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)
