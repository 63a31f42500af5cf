"""Mean-field theory of blocks: published values, closed forms, and the interpreter on the same networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import Sample, agree, network, sample

import sigprop as sp
from sigprop import meanfield as mf

HALF = [mf.Residual(0.6, 0.8)]  # 0.36 + 0.64 = 1
DEPTH = 3


def norm(z, axis=-1, epsilon=0.0):
    z = z - z.mean(axis, keepdims=True)
    return z / jnp.sqrt((z**2).mean(axis, keepdims=True) + epsilon)


# name: parts, and what they make of a stream z, the activation f and weights and biases w
BLOCKS = {
    "layer": ([], lambda z, f, w: w(f(z))),
    "residual": ([mf.Residual(0.5)], lambda z, f, w: z + 0.5 * w(f(z))),
    "skip": (HALF, lambda z, f, w: 0.8 * z + 0.6 * w(f(z))),
    "pre-norm": ([mf.PreNorm(), mf.Residual(0.5)], lambda z, f, w: z + 0.5 * w(f(norm(z)))),
    "epsilon": ([mf.PreNorm(0.5), mf.Residual(0.5)], lambda z, f, w: z + 0.5 * w(f(norm(z, epsilon=0.5)))),
    "post-norm": ([mf.Residual(0.5), mf.PostNorm()], lambda z, f, w: norm(z + 0.5 * w(f(z)))),
    "activation norm": ([mf.ActivationNorm()], lambda z, f, w: w(norm(f(z)))),
}


def inputs(n, examples=2):
    x = np.random.default_rng(0).standard_normal((examples, n))
    return (x * (n / (x**2).sum(1, keepdims=True)) ** 0.5).astype(np.float32)


def built(update, f, weight, bias, x, depth=DEPTH):
    n = x.shape[-1]

    def model(weights, x):
        z = weights.dense(x, n)
        for _ in range(depth):
            z = update(z, f, lambda y: y @ weights(n, n, std=(weight / n) ** 0.5) + weights(n, std=bias**0.5))
        return z

    return network(model, x)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", BLOCKS)
def test_the_interpreter_and_the_maps_agree(name, activation):
    """Mean square and correlation after three blocks."""
    (block, update), x = BLOCKS[name], inputs(64)
    found = sp.propagate(built(update, sp.init.activations.function(activation), 1.5, 0.1, x), x, backward=False)
    expected = mf.trajectory(activation, 1.5, 0.1, DEPTH, block, c=float(x[0] @ x[1]) / 64)
    np.testing.assert_allclose(found.second_moment.values[-1], expected.q[-1], rtol=1e-5)
    np.testing.assert_allclose(found.correlation.values[-1][0, 1], expected.c[-1], atol=1e-5)


SLOW = {"residual", "skip", "epsilon", "post-norm"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in BLOCKS])
def test_their_gradients_agree(name):
    """Norms take up to two of ``n`` directions from gradients at each block."""
    (block, update), x = BLOCKS[name], inputs(64)
    found = sp.propagate(built(update, jax.nn.relu, 1.5, 0.1, x), x)
    expected, normed = mf.trajectory("relu", 1.5, 0.1, DEPTH, block), name in ("pre-norm", "epsilon", "post-norm")
    np.testing.assert_allclose(found.grad_variance.values[0], expected.jacobian_norm[-1], rtol=2 * DEPTH / 64 if normed else 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("name", BLOCKS)
def test_jacobians_of_random_networks(name, activation):
    """Averaged partial Jacobian norm, two widths, extrapolated; what is left is of order (2 depth / n)^2 (Doshi, He & Gromov 2023)."""
    (block, update), f = BLOCKS[name], sp.init.activations.function(activation)
    expected = float(mf.trajectory(activation, 1.5, 0.1, DEPTH, block).jacobian_norm[-1])
    each = 96 if name == "activation norm" else 32  # whose chi is largest, and noise
    found = [_measured(update, f, n, each=each) for n in (32, 64)]
    both = Sample(2 * found[1].mean - found[0].mean, np.hypot(2 * found[1].stderr, found[0].stderr), found[0].dof)
    agree(np.array(expected), both, detects=0.25, allowance=0.01)


def _measured(update, f, n, each, groups=64, directions=4):
    @jax.jit
    @jax.vmap
    def norms(key):
        keys = jax.random.split(key, 3)
        weights = (1.5 / n) ** 0.5 * jax.random.normal(keys[0], (DEPTH, n, n))
        biases = 0.1**0.5 * jax.random.normal(keys[1], (DEPTH, n))

        def stream(z):
            for w, b in zip(weights, biases, strict=True):
                z = update(z, f, lambda y: y @ w + b)
            return z

        z, *tangents = jax.random.normal(keys[2], (1 + directions, n))
        push = jax.linearize(stream, z)[1]
        return (jax.vmap(push)(jnp.stack(tangents)) ** 2).mean()

    return sample(norms(jax.random.split(jax.random.key(n), groups * each)).reshape(groups, each).mean(1))


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "batch"), [("identity", 8), ("tanh", 8), ("relu", 12)])
def test_batch_norm(activation, batch):
    """The second layer behind a batch of orthogonal inputs is at the fixed point, and the gradients of the third are centred."""
    f, x = sp.init.activations.function(activation), (64**0.5 * np.eye(batch, 64)).astype(np.float32)
    found = sp.propagate(built(lambda z, f, w: w(f(norm(z, 0))), f, 1.5, 0.1, x), x)
    rows = [k for k, name in enumerate(map(str, found.node.values)) if name.startswith(("dot_general", "add"))][-DEPTH:]
    point = mf.fixed_point(activation, 1.5, 0.1, block=[mf.BatchNorm(batch)])
    np.testing.assert_allclose(found.second_moment.values[-1], point.q, rtol=5e-3)
    np.testing.assert_allclose(found.correlation.values[-1][0, 1], point.c, atol=5e-3)
    grads = found.grad_variance.values[rows]
    np.testing.assert_allclose(grads[0] / grads[1], mf.chi1(activation, 1.5, 0.1, [mf.BatchNorm(batch)]), rtol=1e-2)


@pytest.mark.parametrize(("activation", "batch"), [("identity", 6), ("tanh", 6), pytest.param("relu", 12, marks=pytest.mark.slow)])
def test_batch_norm_by_sampling(activation, batch):
    """Moments on the sphere and the growth of gradients through norm and activation, for centred cotangents; false alarm 1e-6."""
    f, draws = sp.init.activations.function(activation), (128, 500)
    z, g = (jax.random.normal(k, (*draws, batch)) for k in jax.random.split(jax.random.key(0)))
    g = g - g.mean(-1, keepdims=True)
    point, chi = mf.fixed_point(activation, 1.5, 0.1, block=[mf.BatchNorm(batch)]), mf.chi1(activation, 1.5, 0.1, [mf.BatchNorm(batch)])
    y, pull = jax.vjp(lambda z: f(norm(z)), z * (point.q * (1 - point.c)) ** 0.5)
    agree(np.array((point.q - 0.1) / 1.5), sample((y**2).mean((1, 2))), detects=0.03)
    agree(np.array((point.c * point.q - 0.1) / 1.5), sample((y[..., 0] * y[..., 1]).mean(1)), scale=np.array(1.0), detects=0.03)
    growth = 1.5 * (pull(g)[0] ** 2).sum((1, 2)) / (draws[1] * (batch - 1))
    agree(np.array(chi), sample(growth), detects=0.1)


def test_attention_is_the_interpreters():
    """Uniform attention over five tokens of one sequence under a residual stream."""
    n, tokens, c = 64, 5, 0.3
    x = np.linalg.cholesky(np.full((tokens, tokens), c) + (1 - c) * np.eye(tokens)) @ np.linalg.qr(
        np.random.default_rng(0).standard_normal((n, tokens)))[0].T * n**0.5
    x = x[None].astype(np.float32)
    net = built(lambda z, f, w: 0.8 * z + 0.6 * w(f(z).mean(1, keepdims=True)), jnp.tanh, 1.5, 0.1, x)
    kernel = sp.infinite_kernel(net, ntk=False)(x).nngp[0, 0]
    expected = mf.trajectory("tanh", 1.5, 0.1, DEPTH, [mf.Attention(tokens), *HALF], c=c).isel(layer=-1)
    np.testing.assert_allclose(np.diag(kernel), expected.q, rtol=1e-5)
    np.testing.assert_allclose(kernel[0, 1:] / kernel[0, 0], expected.c, rtol=1e-5)


def test_dropout_is_the_interpreters(keep=0.8, n=64):
    """Masks as Bernoulli parameters, one for each example."""
    x = inputs(n)

    def init(key):
        return [(jax.random.normal(key, (n, n)) * (1.5 / n) ** 0.5, 0.1**0.5 * jax.random.normal(key, (n,)),
                 jax.random.bernoulli(key, keep, (2, n)).astype(jnp.float32)) for key in jax.random.split(key, DEPTH)]

    def apply(params, x):
        z = x
        for k, (w, b, mask) in enumerate(params):
            z = (z if k == 0 else jnp.tanh(z) * mask / keep) @ w + b
        return z

    found = sp.propagate(sp.network(apply, x, init=init), x, backward=False)
    q, k = 1.6, 1.5 * float(x[0] @ x[1]) / n + 0.1
    expected = mf.trajectory("tanh", 1.5, 0.1, DEPTH - 1, [mf.Dropout(keep)], q=q, c=k / q).isel(layer=-1)
    np.testing.assert_allclose(found.second_moment.values[-1], expected.q, rtol=1e-5)
    np.testing.assert_allclose(found.correlation.values[-1][0, 1], expected.c, atol=1e-5)


@pytest.mark.parametrize("taps", [(1 / 3, 1 / 3, 1 / 3), (0.2, 0.5, 0.3), (0, 1, 0)], ids=str)
@pytest.mark.parametrize("mode", [1, 3])
def test_modes_of_a_convolution(taps, mode, size=8, n=32):
    """A small wave on an image, of which a layer keeps what the slope says (Xiao et al. 2018, section 2.2)."""
    weight, bias, wave = 1.5, 0.1, np.cos(2 * np.pi * mode * np.arange(size) / size)
    point = mf.fixed_point("tanh", weight, bias)
    x = np.sqrt(point.q + 1e-2 * wave)[None, :, None] * np.sign(np.random.default_rng(0).standard_normal((1, size, n)))

    def model(weights, x):
        z = x
        for _ in range(2):
            kernels = [weights(n, n, std=(weight * t / n) ** 0.5) for t in taps if t]
            rolled = [jnp.roll(z if z is x else jnp.tanh(z), 1 - k, 1) for k, t in enumerate(taps) if t]
            z = sum(r @ w for r, w in zip(rolled, kernels, strict=True)) + weights(n, std=bias**0.5)
        return z

    found = np.diag(sp.infinite_kernel(network(model, x.astype(np.float32)), ntk=False)(x.astype(np.float32)).nngp[0, 0])
    block = mf.Convolution(taps, 2 * np.pi * mode / size)
    q = weight * point.q + bias  # of the first layer, which is linear
    maps = mf.Maps("tanh", weight, bias)
    expected = 1e-2 * weight * block.eigenvalue**2 * float(maps.variance_slope(q).value)
    spectrum = 2 * np.abs(np.fft.rfft(found)[mode]) / size
    np.testing.assert_allclose(spectrum, expected, rtol=2e-3)
    np.testing.assert_allclose(found.mean(), maps.variance(q).value, rtol=1e-4)


def test_residual_networks_as_published():
    """Yang & Schoenholz 2017: with tanh q grows linearly, gradients as exp of the root of the depth.

    chi - 1 is ``sigma_w^2 E[f'^2]``, for large q ``(4/3) sigma_w^2 / sqrt(2 pi q)``, the integral of sech^4 times the density at 0.
    """
    found = mf.trajectory("tanh", 1.5, 0.1, 800, [mf.Residual()])
    np.testing.assert_allclose(found.q[-1] - found.q[-2], 1.6, rtol=0.04)  # sigma_w^2 + sigma_b^2
    growth = np.log(found.jacobian_norm.values[800] / found.jacobian_norm.values[200]) / (800**0.5 - 200**0.5)
    np.testing.assert_allclose(growth, 8 / 3 * 1.5 / (2 * np.pi * 1.6) ** 0.5, rtol=0.05)
    point = mf.fixed_point("tanh", 1.5, 0.1, block=[mf.Residual()])
    assert point.q == np.inf and not point.converged


CLOSED = {  # call and value
    "batch norm, ReLU": (lambda: mf.chi1("relu", 2.0, 0.0, [mf.BatchNorm()]), np.pi / (np.pi - 1)),
    "batch norm, linear": (lambda: mf.chi1("identity", 1.0, 0.0, [mf.BatchNorm(32)]), 30 / 29),
    "batch norm, correlation": (lambda: mf.fixed_point("identity", 1.0, 0.0, block=[mf.BatchNorm(8)]).c, -1 / 7),
    "layer norm of ReLU": (lambda: mf.chi1("relu", 2.0, 0.0, [mf.ActivationNorm()]), np.pi / (np.pi - 1)),
    "norm, linear": (lambda: mf.chi1("identity", 3.0, 0.0, [mf.PreNorm()]), 1.0),
    "rank collapse": (lambda: mf.depth_scales("identity", 1.0, 0.0, [mf.Attention(16), *HALF]).xi_c, -1 / np.log(0.64)),
    "rank collapse, correlation": (lambda: float(mf.trajectory("identity", 1.0, depth=1, block=[mf.Attention(16)], c=0.2).c[1]), 1.0),
    "dropout, linear": (lambda: mf.chi1("identity", 0.4, 0.1, [mf.Dropout(0.5)]), 0.8),
    "dropout, correlation": (lambda: mf.fixed_point("identity", 0.4, 0.1, block=[mf.Dropout(0.5)]).c, 0.1 / 0.6 / 0.5),
    "skip": (lambda: mf.fixed_point("tanh", 2.5, 0.05, block=HALF).c, 0.4468042),
    "critical, skip": (lambda: mf.critical_weight_variance("tanh", 0.05, HALF), 1.760955),
    "delta kernel": (lambda: mf.depth_scales("tanh", 1.7, 0.05, [mf.Convolution((0, 1, 0), 1.0)]).xi_c, 74.91827),
    "trainable": (lambda: mf.trainability_length("tanh", 1.7, 0.05), 6 * 74.91827),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    call, expected = CLOSED[name]
    np.testing.assert_allclose(call(), expected, rtol=1e-6)


def test_dropout_has_no_edge_of_chaos():
    """Schoenholz et al. 2017, section 5: at the critical variance without dropout c* falls below 1 with the rate, and xi_c is finite."""
    points = [mf.fixed_point("tanh", 1.760955, 0.05, block=[mf.Dropout(keep)]).c for keep in (1.0, 0.999, 0.99, 0.9)]
    assert points[0] > 0.99 and np.all(np.diff(points) < 0)
    assert mf.depth_scales("tanh", 1.760955, 0.05, [mf.Dropout(0.99)]).xi_c < 30


GRIDS = {"dropout": [mf.Dropout(0.9)], "skip": HALF, "post-norm": BLOCKS["post-norm"][0], "batch norm": [mf.BatchNorm(8)],
         "attention": [mf.Attention(8), *HALF], "epsilon": [mf.PreNorm(0.1)], "mode": [mf.Convolution(frequency=1.0)],
         "activation norm": [mf.ActivationNorm()], "pre-norm": [mf.PreNorm(), *HALF]}


@pytest.mark.parametrize("name", GRIDS)
def test_diagrams_are_the_single_points(name):
    block, weights, biases = GRIDS[name], [0.5, 2.5], [0.0, 0.05]
    found = mf.phase_diagram("tanh", weights, biases, block)
    for w, b in ((w, b) for w in weights for b in biases):
        here, point = found.sel(weight_variance=w, bias_variance=b), mf.fixed_point("tanh", w, b, block=block)
        expected = {"q": point.q, "c": point.c, "chi1": mf.chi1("tanh", w, b, block), **mf.depth_scales("tanh", w, b, block)._asdict()}
        np.testing.assert_allclose([float(here[k]) for k in expected], [*expected.values()], rtol=1e-6, atol=1e-7, err_msg=f"{w} {b}")


BAD = {
    "no part": (lambda: mf.fixed_point("tanh", 1.0, block=["norm"]), "is no part"),
    "batch norm outside": (lambda: mf.fixed_point("tanh", 1.0, block=[mf.Residual(), mf.BatchNorm(8)]), "first part"),
    "small batch": (lambda: mf.BatchNorm(3), "batch: 3 given"),
    "keep": (lambda: mf.Dropout(0.0), "keep: 0.0 given"),
    "taps": (lambda: mf.Convolution((1.0, 1.0)), "taps"),
    "frequency": (lambda: mf.Convolution((0.5, 0.5), (1.0, 2.0)), "frequency"),
    "tokens": (lambda: mf.Attention(1), "tokens: 1 given"),
    "no fixed point": (lambda: mf.chi1("tanh", 1.0, 0.1, [mf.Residual()]), "follow them with trajectory"),
    "no critical point": (lambda: mf.critical_weight_variance("relu", 0.0, [mf.ActivationNorm()]), "no critical weight variance"),
    "depth": (lambda: mf.trajectory("tanh", 1.0, depth=0), "depth: 0 given"),
    "correlation": (lambda: mf.trajectory("tanh", 1.0, c=2.0), "c: 2.0 given"),
    "not integrable": (lambda: mf.fixed_point(lambda x: jnp.exp(x**2), 1.0, block=HALF), "infinite or cannot be computed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()
