"""NNGP and NTK of ordinary Flax models against neural-tangents 0.6.5 (tests/data), float64."""

from pathlib import Path

import jax
import numpy as np
import pytest
from golden_models import MODELS

import sigprop as sp

REFERENCE = Path(__file__).parent / "data" / "neural_tangents_golden.npz"


@pytest.mark.parametrize("name", MODELS)
def test_kernels_equal_reference(name):
    reference = np.load(REFERENCE)
    x1, x2 = reference[f"{name}/x1"], reference[f"{name}/x2"]
    tolerance = 1e-6 if "gelu" in name or "circular" in name else 1e-8  # exact GELU to 1e-6
    with jax.enable_x64(True):
        kernel = sp.infinite_kernel(sp.network(MODELS[name](), x1), "standard" if "standard" in name else "ntk")
        pair, square = kernel(x1, x2), kernel(x1)
    for part in ("nngp", "ntk"):
        np.testing.assert_allclose(getattr(pair, part), reference[f"{name}/{part}"], rtol=tolerance)
        np.testing.assert_allclose(getattr(square, part), reference[f"{name}/{part}_11"], rtol=tolerance)


def arc_cosine(q11, q22, q12, depth):
    """Cho & Saul 2009 with He scaling, written independently in NumPy."""
    for _ in range(depth):
        root = np.sqrt(q11 * q22)
        angle = np.arccos(np.clip(q12 / root, -1, 1))
        q12 = root * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / np.pi
    return q12


def test_deep_relu_equals_arc_cosine_recursion():
    import flax.linen as nn
    import jax.numpy as jnp

    layers = []
    options = {"kernel_init": nn.initializers.variance_scaling(2.0, "fan_in", "normal"), "dtype": jnp.float64,
               "param_dtype": jnp.float64}
    for _ in range(50):
        layers += [nn.Dense(64, **options), nn.relu]
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((3, 5))
        net = sp.network(nn.Sequential([*layers, nn.Dense(1, **options)]), x)
        found = np.asarray(sp.infinite_kernel(net, ntk=False)(x).nngp)
    gram = 2 * x @ x.T / 5
    q = np.diag(gram)
    expected = arc_cosine(q[:, None], q[None, :], gram, 50) + 0.0
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(found[off], expected[off], rtol=1e-12)
    np.testing.assert_allclose(np.diag(found), q, rtol=1e-12)
