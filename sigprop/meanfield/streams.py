"""Singular values of the Jacobian of a deep wide residual network, slopes of successive blocks being correlated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from sigprop.errors import InvalidInput
from sigprop.gaussian import normal_points
from sigprop.init.activations import Activation, derivative, exactly, function
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.meanfield.blocks import Residual
from sigprop.meanfield.maps import Maps
from sigprop.meanfield.series import power, product
from sigprop.meanfield.trajectory import trajectory
from sigprop.types import METHODS, Estimate

_POINTS, _REPLICATES = 1 << 11, 4  # coordinates of the stream, of which moments are means
_DENSITY_POINTS = 1 << 9  # for the density, which needs thousands of sweeps
_BLURS = (1.0, 0.1, 0.01, 2e-3, 1e-3)  # imaginary part of lambda over the real one, the last half of that before
_STEPS, _RESTS = 2000, 1e-9  # sweeps at each, and relative change after which they end


@dataclass(frozen=True)
class ResidualJacobian:
    """The Jacobian ``J_L ... J_1`` of blocks ``z -> skip z + alpha (W f(z) + b)``, ``J_l = skip + alpha W_l D_l``, of infinite width.

    ``D_l`` holds the slopes ``f'(z_l)``. A coordinate of the stream changes slowly from block to block, so that its slopes are
    correlated: the blocks are free with amalgamation over diagonal matrices, and not free, as where spectra are taken from products of
    S-transforms (Tarnowski et al. 2019; Ling & Qiu 2019), which is right for linear networks, and for ReLU and ``alpha^2 L = 1`` a tenth
    short in ``E[s^4]``. The resolvent ``E[1 / (lambda - s^2)]`` is that of a chain of scalars for each coordinate,

        h_l = skip h_(l-1) + a_l g_l,    g_(l-1) = skip g_l + b_l d_l h_(l-1),    g_L = h_L,    lambda h_0 - g_0 = source,

    with ``d = alpha^2 sigma_w^2 f'^2`` and what the weights do to the mean, ``a_l`` and ``b_l``. Of the responses ``A_l =
    E[d_l dh_(l-1)/d(source of g_(l-1))]`` and ``B_l = E[dg_l / d(source of h_l)]``, means over coordinates, they are ``a = A``, ``b = B``
    for Gaussian and ``a = A / (1 + A b)``, ``b = B / (1 + B a)`` for orthogonal weights: ``A b`` generates their free cumulants (Nica &
    Speicher 1997). Coordinates ``(z_1, ..., z_L)`` are Gaussian with independent increments, sampled by Sobol' points.

    Attributes:
        activation, weight_variance, bias_variance: as in :class:`Maps`.
        depth: ``L``, number of blocks, at least 1.
        alpha, skip: as in :class:`Residual`; ``skip`` not 0.
        weights: ``"gaussian"`` or ``"orthogonal"`` (of gain ``sigma_w``).
        q: mean square of what the first block takes in, above 0.

    Raises:
        InvalidInput: as :class:`Maps`, and for numbers out of range.
    """

    activation: Activation
    weight_variance: float
    bias_variance: float = 0.0
    depth: int = 1
    alpha: float = 1.0
    skip: float = 1.0
    weights: str = "gaussian"
    q: float = 1.0

    def __post_init__(self) -> None:
        Maps(self.activation, self.weight_variance, self.bias_variance)
        Residual(self.alpha, self.skip)
        check_whole("depth", self.depth)
        check_choice("weights", self.weights, ("gaussian", "orthogonal"))
        check_number("q", self.q, above=0.0)
        if self.skip == 0:
            raise InvalidInput("skip: 0 given; without a stream ask for Jacobian")

    @cached_property
    def _sizes(self) -> np.ndarray:
        """``q`` in front of each block."""
        block = [Residual(self.alpha, self.skip)]
        with np.errstate(over="ignore", invalid="ignore"):
            found = trajectory(self.activation, self.weight_variance, self.bias_variance, self.depth, block, self.q).q.values
        if not np.all(np.isfinite(found)):
            raise InvalidInput(f"alpha: at {self.alpha!r} signals overflow within {self.depth} blocks")
        return found[:-1]

    def _slopes(self, points: int, replicate: int) -> list[np.ndarray]:
        """``alpha^2 sigma_w^2 f'(z_l)^2`` of each block at these coordinates."""
        f = function(self.activation)
        slope = exactly(derivative(f), "derivative of activation", f)
        half, sizes = normal_points(points // 2, self.depth, replicate), self._sizes
        normal = np.concatenate([half, -half])
        steps = np.sqrt(np.maximum(np.diff(sizes, prepend=0.0) + np.concatenate([[0.0], (1 - self.skip**2) * sizes[:-1]]), 0.0))
        z, found = np.zeros(points), []
        for step, part in zip(steps, normal.T, strict=True):
            z = self.skip * z + step * part
            found.append(self.alpha**2 * self.weight_variance * slope(z) ** 2)
        return found

    @property
    def mean(self) -> float:
        """``E[s^2] = prod(skip^2 + alpha^2 chi_l)``, exactly: the weights of a block know nothing of the blocks below."""
        chi = Maps(self.activation, self.weight_variance, self.bias_variance).chi(self._sizes).value
        return float(np.prod(self.skip**2 + self.alpha**2 * np.broadcast_to(chi, self._sizes.shape)))

    def moments(self, order: int) -> Estimate:
        """``E[s^(2k)]`` for ``k = 1`` to ``order``, float64 ``[order]``: the chain solved in powers of ``1 / lambda``.

        The error is the standard error over sets of coordinates.
        """
        check_whole("order", order)
        found = np.stack([self._moments(order, r) for r in range(_REPLICATES)])
        return Estimate(found.mean(0), found.std(0, ddof=1) / _REPLICATES**0.5, METHODS[2])  # type: ignore[arg-type]

    def _moments(self, order: int, replicate: int) -> np.ndarray:
        size = order + 2
        unit = np.eye(size)
        numbers = Numbers(product, lambda a: power(a, -1, size))
        squares = [d[:, None] * unit[0] for d in self._slopes(_POINTS, replicate)]
        state = Energies(*(np.zeros((self.depth, size)) for _ in range(2)))
        chain = Chain(numbers, squares, self.skip**2, self.weights == "orthogonal", unit[0])
        for _ in range(size):
            state = chain.sweep(unit[1], state)[0]
        return chain.sweep(unit[1], state)[1][2:]

    def density(self, squares: Any) -> np.ndarray:
        """Density of ``s^2`` at these values above 0, float64 of their shape, at edges blurred by a few thousandths of each."""
        at = np.asarray(squares, np.float64)
        if not np.all(at > 0) or not np.all(np.isfinite(at)):
            raise InvalidInput("squares: finite numbers above 0 are needed")
        with jax.enable_x64(True):
            slopes = [jnp.asarray(d, complex) for d in self._slopes(_DENSITY_POINTS, 0)]
            found = _densities(slopes, self.skip**2, self.weights == "orthogonal", jnp.asarray(at.reshape(-1)))
            return np.asarray(found).reshape(at.shape)


class Numbers(NamedTuple):
    """What the chain is solved in: complex numbers, or power series."""

    product: Callable[[Any, Any], Any]
    reciprocal: Callable[[Any], Any]


class Energies(NamedTuple):
    """``a_l`` and ``b_l`` of every block, on a leading axis."""

    a: Any
    b: Any


class Chain(NamedTuple):
    """The blocks: ``d_l`` at every coordinate, on a leading axis, and the square of the factor of the stream."""

    numbers: Numbers
    squares: Sequence[Any]
    stream: float
    orthogonal: bool
    one: Any

    def sweep(self, y: Any, energies: Energies) -> tuple[Energies, Any]:
        """Self-energies once more, from those found last at ``y = 1 / lambda``, and the resolvent; of a series one order more is right."""
        times, down, a, b = self.numbers.product, self._divided, list(energies.a), list(energies.b)
        ratios = [y + 0 * self.squares[0]]  # h_l over g_l, by what is below
        for d, one, two in zip(self.squares, a, b, strict=True):
            ratios.append(self.stream * down(ratios[-1], times(d, two)) + one)
        rest, rests = self.one + 0 * self.squares[0], []  # g_l over h_l, by what is above
        for k in reversed(range(len(a))):
            b[k] = self._energy(rest, ratios[k + 1], a[k])
            rest = self.stream * down(rest, a[k]) + times(self.squares[k], b[k])
            rests.append(rest)
        ratio = ratios[0]
        for k, d in enumerate(self.squares):
            a[k] = self._energy(ratio, rests[-1 - k], b[k], d)
            ratio = self.stream * down(ratio, times(d, b[k])) + a[k]
        return Energies(a, b), down(ratios[0], rest).mean(0)

    def _energy(self, own: Any, other: Any, partner: Any, factor: Any = None) -> Any:
        response = self._divided(own, other)
        response = (response if factor is None else self.numbers.product(factor, response)).mean(0)
        return self._divided(response, -partner) if self.orthogonal else response

    def _divided(self, a: Any, b: Any) -> Any:
        """``a / (1 - a b)``."""
        return self.numbers.product(a, self.numbers.reciprocal(self.one - self.numbers.product(a, b)))


@partial(jax.jit, static_argnames=("stream", "orthogonal"))
def _densities(slopes: list[Any], stream: float, orthogonal: bool, at: Any) -> Any:
    """``-Im E[1 / (lambda - s^2)] / pi`` just above the real axis, by averaged sweeps (Helton, Rashidi Far & Speicher 2007)."""
    chain = Chain(Numbers(jnp.multiply, jnp.reciprocal), slopes, stream, orthogonal, jnp.ones((), complex))

    def solved(x: Any) -> Any:
        state, found = Energies(*(jnp.zeros(len(slopes), complex) for _ in range(2))), []
        for blur in _BLURS:
            y = 1 / (x * (1 + 1j * blur))

            def step(carry: tuple[Any, ...], y: Any = y) -> tuple[Any, ...]:
                state, _, k = carry
                new = Energies(*map(jnp.stack, chain.sweep(y, state)[0]))
                moved = jnp.stack([jnp.max(jnp.abs(b - a)) / jnp.max(jnp.abs(b)) for a, b in zip(state, new, strict=True)])
                return Energies(*((a + b) / 2 for a, b in zip(state, new, strict=True))), moved.max(), k + 1

            state = lax.while_loop(lambda c: (c[1] > _RESTS) & (c[2] < _STEPS), step, (state, jnp.inf, 0))[0]
            found.append(-chain.sweep(y, state)[1].imag / jnp.pi)
        return 2 * found[-1] - found[-2]  # what is of first order in the imaginary part cancels

    return lax.map(solved, at, batch_size=16)
