"""How fast gradient descent moves each loss term: tangent kernels of the terms, their spectra, and weights that even them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from sigprop import spectra
from sigprop.engine import RULES
from sigprop.errors import InvalidInput
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_choice
from sigprop.network import Network
from sigprop.pinn.terms import Terms, named, networks


class TermKernel(NamedTuple):
    """The tangent kernel of one term.

    Attributes:
        kernel: ``[n, n]`` between its points, averaged over its components.
        eigenvalues: ``[n]`` of it, largest first.
        trace: of the kernel of all points and components, its components times that of ``kernel``.
        error: estimated absolute error of ``trace``.
        outputs: points times components, the rows of the Jacobian.
    """

    kernel: np.ndarray
    eigenvalues: np.ndarray
    trace: float
    error: float
    outputs: int


def ntk_spectra(net: Network, terms: Terms, parameterization: str = "standard", *,
                rules: Mapping[str, Any] = RULES) -> dict[str, TermKernel]:
    """E[J Jᵀ] of every term, ``J`` the derivative of its residual with respect to the trained parameters, and its spectrum.

    These are the diagonal blocks ``K_uu``, ``K_rr`` of Wang, Yu & Perdikaris (2022, "When and why PINNs fail to train"). For linear
    equations they do not fluctuate in the limit; those of nonlinear ones depend on ``u`` itself, and this is their mean over draws.
    Derivatives along the inputs in forward mode (``jax.jvp``) are followed for every activation; in reverse mode (``jax.grad``) their
    kernels are refused where transposed weights meet what depends on them.

    Args:
        net, terms, rules: as in :func:`sigprop.pinn.loss_balance`.
        parameterization: ``"standard"``, in which plain gradient descent trains and which counts the network's own widths, or ``"ntk"``.

    Raises:
        InvalidInput, MissingRule, Unsound: naming the term, as :func:`sigprop.pinn.loss_balance`.
    """
    return {name: _kernel(name, one, points, parameterization, rules) for name, (one, points) in networks(net, terms).items()}


def recommended_weights(net: Network, terms: Terms, reduction: str = "mean", *, rules: Mapping[str, Any] = RULES) -> dict[str, float]:
    """Factors of the loss terms for which the terms are learned equally fast on average: ``λ_i = sum_j tr K_j / tr K_i``.

    That is the weighting of Wang, Yu & Perdikaris (2022, section 6, algorithm 1) at the first step, from the predicted kernels. For
    gradient descent on ``sum_i λ_i mean(r_i²)`` the kernel that moves ``r_i`` is ``λ_i K_i / n_i``, ``n_i`` its number of residuals, and
    the average rate is the trace of that over the points; hence ``tr K_i / n_i`` is what is evened out there.

    Args:
        net, terms, rules: as in :func:`sigprop.pinn.loss_balance`.
        reduction: how the squares of a term enter the loss: ``"mean"``, or ``"sum"`` as in the paper.

    Returns:
        Weights by name, above 1.

    Raises:
        InvalidInput, MissingRule, Unsound: as :func:`ntk_spectra`; where the kernel of a term is zero.
    """
    check_choice("reduction", reduction, ("mean", "sum"))
    found = ntk_spectra(net, terms, rules=rules)
    rates = {name: one.trace / (one.outputs if reduction == "mean" else 1) for name, one in found.items()}
    for name, rate in rates.items():
        if not rate > 0:
            raise InvalidInput(f"terms[{name!r}]: the trace of its tangent kernel is {rate:g}, so that no weight makes it learn")
    return {name: sum(rates.values()) / rate for name, rate in rates.items()}


def _kernel(name: str, net: Network, points: Any, parameterization: str, rules: Mapping[str, Any]) -> TermKernel:
    with named(name):
        found = infinite_kernel(net, parameterization, rules=rules)(points)
        components = net.graph(points).avals[net.graph(points).outputs[0]].shape[-1]
    kernel = jnp.asarray(found.ntk)
    n, trace = len(points), components * float(jnp.trace(kernel))
    assert found.ntk_error is not None
    outputs = n * components
    return TermKernel(np.asarray(kernel), np.asarray(spectra.spectrum(kernel)), trace, outputs * float(found.ntk_error), outputs)
