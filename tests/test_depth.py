"""A thousand layers, and predictions under transformations of JAX."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sigprop as sp
from sigprop.predict.signal import interpretation

X = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
INITS = {"He": (nn.initializers.he_normal(), 2.0), "Glorot": (nn.initializers.glorot_normal(), 1.0),
         "N(0, 0.01^2)": (nn.initializers.normal(0.01), 64e-4)}


def deep(depth, init, activation=nn.relu):
    return nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(64, kernel_init=init), activation)])


@pytest.mark.parametrize(("name", "depth"), [
    ("He", 100), *(pytest.param(name, 1000, marks=pytest.mark.slow) for name in INITS)])
def test_thousand_relu_layers_follow_the_geometric_law(name, depth):
    """E[z^2] of layer L is that of the input times (n v)^L / 2^(L - 1), n v = 64 times the weight variance.

    The scale of an initializer is a float32 number: its square may be off by 2^-23 in each layer.
    """
    init, gain = INITS[name]
    found = sp.propagate(sp.network(deep(depth, init), X), X, backward=False).log10_second_moment.values[-2]
    expected = np.log10(np.mean(X.astype(float) ** 2) * gain) + (depth - 1) * np.log10(gain / 2)
    np.testing.assert_allclose(found, expected, atol=depth * 2**-23 / np.log(10))


def test_chaos_does_not_amplify_rounding():
    """The variance of a chaotic tanh network stays at its fixed point, where correlations are unstable."""
    found = sp.propagate(sp.network(deep(300, nn.initializers.he_normal(), jnp.tanh), X), X, backward=False)
    late = found.input_second_moment.values[100:]
    np.testing.assert_allclose(late[::2], np.broadcast_to(late[0], late[::2].shape), rtol=1e-7)


class PreNorm(nn.Module):
    """Residual blocks with a norm in front of each."""

    depth: int
    stem: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(64)(x) if self.stem else x
        for _ in range(self.depth):
            x = x + nn.Dense(64)(nn.relu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(8)(nn.LayerNorm()(x))


@pytest.mark.parametrize("stem", [True, False])
def test_moments_asked_grow_linearly_with_residual_depth(stem):
    """Each further block asks no more questions than the ones before it, although the stream is a sum over all blocks."""
    asked = [len(interpretation(sp.network(PreNorm(depth, stem), X), X).context.query.memo) for depth in (10, 20, 30)]
    assert asked[2] - asked[1] <= asked[1] - asked[0]


def test_residual_stream_follows_its_closed_form():
    """With unit-variance branches halved by a ReLU, block L adds 1/2 to E[z^2], which starts as that of the stem."""
    found = sp.propagate(sp.network(PreNorm(20), X), X)
    stream = found.second_moment.values[[str(n).endswith("add") or str(n).startswith("add") for n in found.node.values]]
    np.testing.assert_allclose(np.diff(stream), 0.5, rtol=1e-4)


MODEL = nn.Sequential([nn.Dense(64), jnp.tanh, nn.Dense(64), nn.LayerNorm(), nn.relu, nn.Dense(8)])


LONGER = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(64), jnp.tanh, nn.Dense(64), nn.LayerNorm(), nn.gelu, nn.Dense(8)])


@pytest.mark.parametrize("model", [MODEL, pytest.param(LONGER, marks=pytest.mark.slow)], ids=["short", "long"])
def test_propagate_under_jit_equals_eager(model):
    net = sp.network(model, X)
    eager, traced = sp.propagate(net, X, backward=True), jax.jit(lambda x: sp.propagate(net, x, backward=True))(X)
    for name in ("second_moment", "variance", "correlation", "quantile", "grad_variance"):
        tolerance = 2e-3 if name == "quantile" else 1e-5
        np.testing.assert_allclose(np.asarray(traced[name].data), eager[name].values, rtol=tolerance, atol=tolerance * 1e-3)


def test_kernel_maps_over_batches():
    """Two normalizers behind each other: the tangent of the second holds means over channels of that of the first."""
    model = nn.Sequential([nn.Dense(64), nn.LayerNorm(), jnp.tanh, nn.Dense(64), nn.LayerNorm(), jnp.tanh, nn.Dense(8)])
    kernel = sp.infinite_kernel(sp.network(model, X))
    stacked = jnp.stack([jnp.asarray(X), 2 * jnp.asarray(X)])
    nngp, ntk = jax.jit(jax.vmap(lambda x: kernel(x)[:2]))(stacked)  # one compilation
    for k, x in enumerate(np.asarray(stacked)):
        np.testing.assert_allclose(nngp[k], kernel(x).nngp, rtol=1e-5)
        np.testing.assert_allclose(ntk[k], kernel(x).ntk, rtol=1e-5)


def test_what_channels_share_is_refused_under_jit():
    """Weights that mix tokens are the same for all channels: whether they matter to a normalizer is not known from traced inputs."""
    class Mixer(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(jnp.tanh(nn.Dense(64)(x)).swapaxes(1, 2)).swapaxes(1, 2)
            return nn.Dense(4)(nn.LayerNorm()(x))

    tokens = np.random.default_rng(1).standard_normal((2, 3, 8)).astype(np.float32)
    net = sp.network(Mixer(), tokens)
    assert np.isfinite(sp.propagate(net, tokens, backward=False).second_moment).all()
    with pytest.raises(sp.Unsound, match=r"share a random part.*outside of jax\.jit"):
        jax.jit(lambda x: sp.infinite_kernel(net, ntk=False)(x).nngp)(tokens)


def test_measure_under_jit_equals_eager():
    net = sp.network(MODEL, X)
    eager, traced = sp.measure(net, X, seeds=16), jax.jit(lambda x: sp.measure(net, x, seeds=16))(X)
    np.testing.assert_allclose(np.asarray(traced.second_moment.data), eager.second_moment.values, rtol=1e-5)
