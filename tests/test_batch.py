"""Statistics over the batch: closed forms, and gradients against measurement, where examples meet in the forward and the backward pass."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

import sigprop as sp

DIGITS = (load_digits().data / 8 - 1).astype(np.float32)


def normal(x):
    return nn.initializers.normal(x.shape[-1] ** -0.5)


class Normed(nn.Module):
    """Batch norm on the statistics of the batch, before each activation."""

    activation: object
    depth: int = 1
    width: int = 128

    @nn.compact
    def __call__(self, x):
        for _ in range(self.depth):
            x = nn.BatchNorm(use_running_average=False, epsilon=1e-8)(nn.Dense(self.width, use_bias=False, kernel_init=normal(x))(x))
            x = self.activation(x)
        return nn.Dense(4, kernel_init=normal(x))(x)


def linear(x):
    return x


@pytest.mark.parametrize("batch", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_linear_network(batch):
    """``(B - 2) / (B - 3)`` per layer for uncorrelated examples, ``(1 - 1/B)`` of it at the top.

    Yang et al. 2019, "A Mean Field Theory of Batch Normalization".

    The gradient loses one of ``B - 1`` directions, and ``E[1/sigma²]`` of ``B - 1`` degrees of freedom is ``(B-1)/(B-3)``.
    """
    x = np.eye(batch, dtype=np.float32)
    found = sp.propagate(sp.network(Normed(linear, 3), x), x)
    assert not found.gradients
    rows = [k for k, name in enumerate(found.node.values) if name.startswith("Dense")]
    size = found.grad_variance.values[rows]
    growth = (batch - 2) / (batch - 3)
    np.testing.assert_allclose(size[1] / size[2], growth, rtol=2e-3)
    np.testing.assert_allclose(size[2] / (4 / 128), growth * (1 - 1 / batch), rtol=2e-3)
    np.testing.assert_allclose(found.variance.values[[k + 1 for k in rows[:-1]]], 1, rtol=1e-4)


@pytest.mark.slow
def test_relu_network(batch=256, depth=14):
    """Gradients grow by ``pi / (pi - 1)`` per layer of a deep network with a large batch, within 1 % (Yang et al. 2019)."""
    x = DIGITS[:batch]
    found = sp.propagate(sp.network(Normed(nn.relu, depth), x), x)
    size = found.grad_variance.values[[k for k, name in enumerate(found.node.values) if name.startswith("Dense")]]
    np.testing.assert_allclose((size[10] / size[13]) ** (1 / 3), np.pi / (np.pi - 1), rtol=0.01)


@pytest.mark.parametrize("correlated", [0.0, 0.5])
def test_two_examples(correlated):
    """Their normalized difference is a sign: ReLU leaves 1 of it or nothing, whatever their correlation."""
    x = np.array([[1, 0], [correlated, (1 - correlated**2) ** 0.5]], np.float32)
    net = sp.network(Normed(nn.relu), x)
    kernel = sp.infinite_kernel(net, ntk=False)(x).nngp
    np.testing.assert_allclose(kernel, [[0.5, 0], [0, 0.5]], atol=2e-3)


MODELS = {
    "batch norm, relu": lambda: Normed(nn.relu), "batch norm, tanh": lambda: Normed(nn.tanh), "two layers": lambda: Normed(nn.relu, 2),
}


@pytest.mark.parametrize(("batch", "name"), [
    (8, "batch norm, relu"), pytest.param(8, "two layers", marks=pytest.mark.slow),
    *(pytest.param(b, n, marks=pytest.mark.slow) for b in (32, 256) for n in MODELS)])
def test_against_measurement(batch, name):
    """Means over 256 seeds of statistics that vary by a few per cent: 6 standard errors, and 3 % for the finite width."""
    x = DIGITS[:batch]
    net = sp.network(MODELS[name](), x)
    found, measured = sp.propagate(net, x), sp.measure(net, x, seeds=256)
    for column in ("variance", "grad_variance"):
        one, other, error = (d.values for d in (found[column], measured[column], measured[f"{column}_stderr"]))
        assert (np.abs(one - other) < 6 * error + 0.03 * one).all(), (column, one / other, error / other)


@pytest.mark.slow
def test_tangent_kernel():
    """Against ``jax.jacrev`` of the whole batch: 5 standard errors and 2 % of the largest entry."""
    x = DIGITS[:8]
    net = sp.network(Normed(nn.relu, width=512), x)
    leaves, tree = jax.tree.flatten(net.init(jax.random.key(0)))
    moves = [k for k, trained in enumerate(net.trainable) if trained]

    @jax.jit
    def kernel(key):
        drawn = jax.tree.leaves(net.init(key))

        def outputs(some):
            every = dict(enumerate(drawn)) | dict(zip(moves, some, strict=True))
            return net.apply(jax.tree.unflatten(tree, [every[k] for k in range(len(leaves))]), x)

        jacobian = jax.jacrev(outputs)([drawn[k] for k in moves])
        return sum(jnp.einsum("aop,bop->ab", *[j.reshape(8, 4, -1)] * 2) / 4 for j in jacobian)

    measured = np.stack([kernel(jax.random.key(seed)) for seed in range(100)])
    predicted = sp.infinite_kernel(net)(x).ntk
    gap = np.abs(measured.mean(0) - predicted)
    assert (gap < 5 * measured.std(0) / 10 + 0.02 * np.abs(predicted).max()).all()


def test_one_example_and_kernels_of_single_examples():
    """One example is its own mean; kernels at finite width take examples one by one, and say so."""
    one = DIGITS[:1]
    np.testing.assert_allclose(sp.propagate(sp.network(Normed(nn.relu), one), one).variance.values[-1], 0, atol=1e-12)
    with pytest.raises(sp.InvalidInput, match="depends on the rest of its batch"):
        sp.monte_carlo_kernel(sp.network(Normed(nn.relu), DIGITS[:4]), seeds=2)(DIGITS[:4])


class Centred(nn.Module):
    """Deviations from the mean over the batch, which the backward pass centres too."""

    noise: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64, kernel_init=normal(x))(x)
        x = nn.Dropout(0.5, deterministic=not self.noise)(x)
        return nn.Dense(4, kernel_init=normal(x))(x - x.mean(0))


@pytest.mark.parametrize(("batch", "noise"), [(4, False), (16, False), (16, True)])
def test_deviations_from_the_mean(batch, noise):
    """Gradients lose ``1 / B``; dropout at a rate of one half doubles second moments."""
    x = np.ones((batch, 4), np.float32) * np.arange(1, batch + 1)[:, None] / batch
    found = sp.propagate(sp.network(Centred(noise), x), x)
    size = np.float64(x[:, 0])
    # E (m_b s_b - mean)², with masks of E m = 1 and E m² = 1 + noise, independent of each other
    centred = (1 + noise) * (size**2).mean() - (size.mean() ** 2 + noise * (size**2).mean() / batch)
    np.testing.assert_allclose(found.variance.values[-1], centred, rtol=1e-5)
    np.testing.assert_allclose(found.grad_variance.values[0], 4 / 64 * (1 + noise) * (1 - 1 / batch), rtol=1e-5)
