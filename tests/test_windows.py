"""Sums over windows: as matrices, as slices and by windows themselves they are one number."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp
from sigprop.engine import windows

X = np.random.default_rng(0).standard_normal((3, 9, 8, 2)).astype(np.float32)


def convolutions(head, **options):
    def conv(**more):
        return nn.Conv(16, (3, 2), use_bias=False, **more)

    return nn.Sequential([conv(padding="SAME"), nn.relu, conv(**options), nn.relu, head, nn.Dense(1)])


def flat(x):
    return x.reshape(len(x), -1)


def pooled(x):
    return x.mean((1, 2))


MODELS = {
    "flat": convolutions(flat), "pooled": convolutions(pooled), "valid": convolutions(flat, padding="VALID"),
    "stride": convolutions(pooled, strides=(2, 3)), "dilated": convolutions(flat, kernel_dilation=(2, 2), padding="SAME"),
    "average": convolutions(lambda x: flat(nn.avg_pool(x, (3, 2), (2, 2), "SAME"))),
}


@pytest.mark.parametrize("name", MODELS)
def test_ways_to_sum_over_windows_agree(name, monkeypatch):
    net = sp.network(MODELS[name], X)
    with jax.enable_x64(True):
        x = X.astype(np.float64)
        found = []
        for taps, products in ((32, 1000), (32, 0), (0, 0)):  # matrices, slices, neither
            monkeypatch.setattr(windows, "_TAPS", taps)
            monkeypatch.setattr(windows, "_DENSE", products)
            found.append(sp.infinite_kernel(net, "ntk")(x))
            if taps:
                found.append(jax.jit(sp.infinite_kernel(net, "ntk"))(jnp.asarray(x)))
    for kernel in found[:-1]:
        np.testing.assert_allclose(kernel.nngp, found[-1].nngp, rtol=1e-11)
        np.testing.assert_allclose(kernel.ntk, found[-1].ntk, rtol=1e-11)
