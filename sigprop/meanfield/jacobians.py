"""Singular values of the Jacobian of a deep wide network, from free probability (Pennington, Schoenholz & Ganguli 2017, 2018)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import log
from typing import Any

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.gaussian import recognize
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.init.checks import check_choice, check_whole
from sigprop.meanfield.fixed import fixed_point
from sigprop.meanfield.series import inverse, power

_REACH = 8.5  # standard deviations
_PANELS, _ORDER = 64, 24  # of the integral over a pre-activation
_STEPS, _PATH = 30, 600  # of Newton's method, and points on the way from the edge of the spectrum to its lower end
_LOWEST = 1e-12  # share of the edge down to which the density is followed
_GAP = np.linspace(-18.0, 8.0, 261)  # log of x / max - 1 where the edge is looked for
_REAL = 1e-9  # imaginary part, relative, below which the path has come to the lower end


@dataclass(frozen=True)
class Jacobian:
    """The input-output Jacobian ``W_L D_L ... W_1 D_1`` of layers ``z -> W f(z) + b`` at the fixed point, of infinite width.

    That of residual blocks is :class:`ResidualJacobian`.

    ``D`` holds the slopes ``f'(z)`` and is free of ``W``: S-transforms multiply, ``S = S_W^L S_{D^2}^L``, with ``S_W(m) =
    1 / (sigma_w^2 (1 + m))`` for Gaussian and ``1 / sigma_w^2`` for orthogonal weights (Pennington et al. 2018, section 3). With the
    moment generating functions ``M(lambda) = sum_k E[s^(2k)] / lambda^k = m``, of the Jacobian and of ``sigma_w^2 D^2`` at ``x``, that is
    ``lambda = (1 + m) m^(L-1) x^L`` for Gaussian and ``(1 + m)^(1-L) m^(L-1) x^L`` for orthogonal weights.

    Attributes:
        activation, weight_variance, bias_variance: as in :class:`Maps`.
        depth: ``L``, at least 1.
        weights: ``"gaussian"`` or ``"orthogonal"`` (of gain ``sigma_w``).
        q: the fixed point.

    Raises:
        InvalidInput: as :func:`chi1`, and where the fixed point is 0: there the network is linear, ask for ``"identity"``.
    """

    activation: Activation
    weight_variance: float
    bias_variance: float = 0.0
    depth: int = 1
    weights: str = "gaussian"
    q: float = field(init=False)

    def __post_init__(self) -> None:
        check_whole("depth", self.depth)
        check_choice("weights", self.weights, ("gaussian", "orthogonal"))
        point = fixed_point(self.activation, self.weight_variance, self.bias_variance)
        if not point.converged or point.q == 0:
            raise InvalidInput(f"weight_variance: with {self.weight_variance!r} and {self.activation!r} signals "
                               f"{'explode' if point.q else 'die out'}, there is no fixed point to linearize at")
        object.__setattr__(self, "q", point.q)

    @cached_property
    def _slopes(self) -> tuple[np.ndarray, np.ndarray]:
        """``sigma_w^2 f'(z)^2`` at nodes of pre-activations, and their weights."""
        f, root = function(self.activation), self.q**0.5
        slope = exactly(derivative(f), "derivative of activation", f)
        kinks = [k / root for k in recognize(slope).kinks if abs(k) < root * _REACH]
        edges = np.sort([*np.linspace(-_REACH, _REACH, 2 * _PANELS + 1), *kinks])
        x, w = np.polynomial.legendre.leggauss(_ORDER)
        z = ((edges[1:] + edges[:-1]) / 2 + np.outer(x, np.diff(edges) / 2)).ravel()
        weight = np.outer(w, np.diff(edges) / 2).ravel() * np.exp(-(z**2) / 2)
        return self.weight_variance * slope(root * z) ** 2, weight / weight.sum()

    def moments(self, order: int) -> np.ndarray:
        """``E[s^(2k)]`` for ``k = 1`` to ``order``, ``s`` the singular values.

        ``m S(m) / (1 + m)`` is the inverse function of ``sum_k E[s^(2k)] y^k``, for the slopes and for the Jacobian.
        """
        check_whole("order", order)
        squares, weight = self._slopes
        own = inverse(np.array([np.sum(weight * squares**k) for k in range(1, order + 1)]))
        ones = 0 if self.weights == "gaussian" else self.depth  # powers of 1 + m that the weights do not cancel
        return inverse(np.convolve(power(own, self.depth, order), power(np.ones(2), ones - 1, order))[:order])

    @property
    def mean(self) -> float:
        """``E[s^2] = chi_1^L``."""
        return float(self.moments(1)[0])

    @property
    def variance(self) -> float:
        """Of ``s^2``: ``chi_1^(2L) L (E[f'^4] / E[f'^2]^2 - 1 - s_1)``, ``s_1 = -1`` for Gaussian and 0 for orthogonal weights.

        Dynamical isometry asks that it stays small at any depth (Pennington et al. 2018, equation 15).
        """
        first, second = self.moments(2)
        return float(second - first**2)

    @property
    def zero(self) -> float:
        """Share of singular values that are 0: units whose slope vanishes."""
        squares, weight = self._slopes
        return float(np.sum(weight[squares == 0]))

    @cached_property
    def edge(self) -> float:
        """The largest ``s^2``: the least ``lambda(x)`` above the slopes."""
        return float(np.exp(self._log(np.array([self._turn]))[0][0].real))

    @cached_property
    def _turn(self) -> float:
        from scipy.optimize import minimize_scalar  # slow to import

        top = float(self._slopes[0].max())

        def height(gap: float) -> float:
            return float(self._log(np.array([top * (1 + np.exp(gap))]))[0][0].real)

        heights = [height(gap) for gap in _GAP]
        best = int(np.clip(np.argmin(heights), 1, len(_GAP) - 2))
        found = minimize_scalar(height, bounds=(_GAP[best - 1], _GAP[best + 1]), method="bounded", options={"xatol": 1e-10})
        return top * (1 + np.exp(float(found.x)))  # type: ignore[attr-defined]

    def _log(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``log lambda``, its derivative by ``x``, and ``m``."""
        squares, weight = self._slopes
        pole = 1 / (x[:, None] - squares)
        m, slope = (weight * squares * pole).sum(1) + 0j, -(weight * squares * pole**2).sum(1)
        share = 1 if self.weights == "gaussian" else 1 - self.depth
        height = share * np.log(1 + m) + (self.depth - 1) * np.log(m) + self.depth * np.log(x + 0j)
        return height, slope * (share / (1 + m) + (self.depth - 1) / m) + self.depth / x, m

    @cached_property
    def spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """``s^2`` from near the edge down, and their density: without the share of zeros it integrates to 1.

        The branch of ``x(lambda)`` that is complex below the edge is followed down by Newton's method; the density is
        ``-Im m / (pi lambda)``.

        Raises:
            InvalidInput: for one orthogonal layer, whose spectrum is the law of the slopes; and for orthogonal weights where so few
                slopes are below the largest that a share of the singular values has none of these on its way, and sits at the edge
                itself (hard tanh of small variance). Moments and edge are known there too.
        """
        if self.weights == "orthogonal" and self.depth == 1:
            raise InvalidInput("depth: the squared singular values of one orthogonal layer are its slopes; give 2 or more")
        if self._turn < self._slopes[0].max() * (1 + 2 * np.exp(_GAP[0])):
            raise InvalidInput(f"depth: at {self.depth} layers a share of the singular values is the largest one, and has no density; "
                               "give more layers, or use moments and edge")
        start, top = self._turn, log(self.edge)
        near = 1e-3 * (start - float(self._slopes[0].max()))
        curvature = (self._log(np.array([start + near]))[1][0] - self._log(np.array([start - near]))[1][0]).real / (2 * near)
        rest = np.linspace(0, (-log(_LOWEST)) ** 0.5, _PATH + 1)[1:]  # roots of the distance to the edge, in log lambda
        x, found = start + 1j * rest[0] * (2 / abs(curvature)) ** 0.5, []
        for target in top - rest**2:
            for _ in range(_STEPS):
                height, slope, m = (value[0] for value in self._log(np.array([x])))
                away = height - target
                step = complex(away.real, (away.imag + np.pi) % (2 * np.pi) - np.pi) / slope
                x -= step
                if abs(step) < 1e-13 * abs(x):
                    break
            if abs(x.imag) < _REAL * abs(x):
                break
            found.append((np.exp(target), abs(self._log(np.array([x]))[2][0].imag) / np.pi / np.exp(target)))
        squares, density = np.array(found).T
        return squares, density

    def density(self, squares: Any) -> np.ndarray:
        """Density of ``s^2`` (without zeros) at these values, 0 outside of the spectrum, interpolated in ``spectrum``."""
        known, density = self.spectrum
        at = np.asarray(squares, np.float64)
        with np.errstate(divide="ignore"):
            logs = np.log(at)
        inside = (at <= known[0]) & (at >= known[-1])
        return np.where(inside, np.exp(np.interp(logs, np.log(known[::-1]), np.log(density[::-1]))), 0.0)
