"""What one wide layer makes of variances and correlations of pre-activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sigprop.gaussian import Function, moment1, moment2
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.init.checks import check_number
from sigprop.types import Estimate


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

    def variance(self, q: Any) -> Estimate:
        """``sigma_w^2 E[f(z)^2] + sigma_b^2`` for ``E[z^2] = q`` (Poole et al. 2016, equation 3)."""
        return self._layer(moment1([self._f, self._f], 0.0, _array(q)), self.bias_variance)

    def variance_slope(self, q: Any) -> Estimate:
        """Its derivative, ``sigma_w^2 E[f(z) f'(z) z] / q``, by which a deviation from a fixed point is multiplied in a layer."""
        q = _array(q)
        found = self._layer(moment1([self._f, self._slope], 0.0, q, degree=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            return found._replace(value=found.value / np.sqrt(q), error=found.error / np.sqrt(q))

    def chi(self, q: Any) -> Estimate:
        """``sigma_w^2 E[f'(z)^2]``: growth of gradients per layer, and of the distance of two nearby inputs (Poole et al. 2016)."""
        return self._layer(moment1([self._slope, self._slope], 0.0, _array(q)))

    def covariance(self, c: Any, q: Any) -> Estimate:
        """``sigma_w^2 E[f(z1) f(z2)] + sigma_b^2`` for variances ``q`` and correlation ``c`` (Poole et al. 2016, equation 5)."""
        c, q = np.broadcast_arrays(_array(c), _array(q))
        return self._layer(moment2([self._f], [self._f], q, q, c * q), self.bias_variance)

    def correlation_slope(self, c: Any, q: Any) -> Estimate:
        """``sigma_w^2 E[f'(z1) f'(z2)]``, the slope of the map of correlations at a fixed point ``q`` (Schoenholz et al. 2017)."""
        c, q = np.broadcast_arrays(_array(c), _array(q))
        return self._layer(moment2([self._slope], [self._slope], q, q, c * q))

    def _layer(self, moment: Estimate, bias: float = 0.0) -> Estimate:
        return moment._replace(value=self.weight_variance * moment.value + bias, error=self.weight_variance * moment.error)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)
