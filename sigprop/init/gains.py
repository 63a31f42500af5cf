"""Gains that undo what an activation does to the size of a signal."""

from __future__ import annotations

from math import sqrt

import numpy as np

from sigprop.errors import InvalidInput
from sigprop.init.activations import Activation, moments
from sigprop.init.checks import check_number


def gain(activation: Activation, variance: float = 1.0) -> float:
    """The ``g`` for which weights of variance ``g^2 / n`` keep the mean square of a Gaussian pre-activation: ``sqrt(q / E[f(z)^2])``.

    It is sqrt(2) for ReLU at any ``q`` (He et al. 2015), 1.592537 for tanh at ``q = 1``, where ``torch.nn.init.calculate_gain`` has 5/3.

    Args:
        activation: elementwise function of JAX or NumPy, or its name. ``"gelu"`` is exact; ``jax.nn.gelu`` by default is the tanh
            approximation, ``"gelu_tanh"``.
        variance: the mean square ``q`` of the pre-activation, above 0.

    Raises:
        InvalidInput: for unknown names, functions that vanish or whose moments are infinite or not known to 1e-8.
    """
    check_number("variance", variance, above=0.0)
    second = float(moments(activation, variance).second)
    return _root(activation, variance, second, 0.0)


def nfnet_gain(activation: Activation) -> float:
    """``1 / sd(f(z))``, ``z`` standard normal: with it, weights of fan-in 1/n that sum to 0 keep a unit variance (Brock et al. 2021).

    Args:
        activation: as in :func:`gain`. Theirs are measured on samples, 3e-4 to 9e-4 off; for GELU 1.700926 is the exact function's,
            1.700917 that of the tanh approximation.

    Raises:
        InvalidInput: for unknown names, constants, and functions whose moments are infinite or not known to 1e-8.
    """
    mean, second = moments(activation, 1.0)
    return _root(activation, 1.0, float(second - mean**2), float(second))


def _root(activation: Activation, above: float, below: float, scale: float) -> float:
    if not below > 64 * np.finfo(np.float64).eps * scale:
        raise InvalidInput(f"activation: {activation!r} does not vary, so that no gain restores the signal")
    return sqrt(above / below)
