"""The public names, and what every kernel carries."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import sigprop as sp

NAMES = [
    "Gram", "InvalidInput", "Kernel", "KernelSample", "Law", "MissingDependency", "MissingRule", "Network", "OutOfMemory", "Report",
    "SigpropError", "StorageFailed", "Unsound", "adam_advice", "adam_second_moment", "attention_entropy", "coordinate_check", "dynamics",
    "empirical_kernel", "empirical_ntk", "fans", "gram", "infinite_kernel", "init", "interop", "linearize", "lint", "lsuv", "meanfield",
    "measure", "monte_carlo_kernel", "network", "nn", "ntk_operator", "open_gram", "pinn", "precision", "propagate", "remedy", "report",
    "sparse", "spectra", "studies", "taylor",
]
X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
NET = sp.network(nn.Sequential([nn.Dense(64), nn.LayerNorm(), nn.gelu, nn.Dense(2)]), X)


def test_public_names_are_pinned():
    assert sorted(sp.__all__) == NAMES
    assert all(hasattr(sp, name) for name in NAMES)


def test_each_kernel_has_its_own_error():
    """The NTK in the standard parameterization is larger than the NNGP by the width; both rest on the same quadrature."""
    both, alone = sp.infinite_kernel(NET)(X), sp.infinite_kernel(NET, ntk=False)(X)
    assert both.error == alone.error > 0 and both.ntk_error > 10 * both.error
    assert alone.ntk is None and alone.ntk_error is None
    parts = sp.infinite_kernel(NET, per_leaf=True)(X)
    assert set(parts.ntk) == {*NET.laws} and 0 < parts.ntk_error < 2 * both.ntk_error
    still = sp.infinite_kernel(sp.network(lambda p, x: x @ p, X, init=lambda key: np.zeros((8, 2), np.float32)), "ntk", per_leaf=True)(X)
    assert still.error == still.ntk_error == 0


@pytest.mark.parametrize("kind", ["rounding", "standard errors"])
def test_errors_of_finite_kernels(kind):
    if kind == "rounding":
        found = sp.empirical_kernel(NET)(NET.init(jax.random.key(0)), X)
        assert found.ntk_error / found.error == pytest.approx(float(np.abs(found.ntk).max() / np.abs(found.nngp).max()), rel=1e-5)
    else:
        mean, stderr = sp.monte_carlo_kernel(NET, seeds=8)(X)
        np.testing.assert_array_equal(mean.error, stderr.nngp)
        np.testing.assert_array_equal(mean.ntk_error, stderr.ntk)
