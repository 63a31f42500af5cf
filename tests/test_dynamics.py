"""Predictions against neural-tangents, NumPy and real training; selection, curves, large systems, bad input."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_models import MODELS
from test_interop import needs_it, nt  # noqa: F401

import sigprop as sp
from sigprop import inputs

RANDOM = np.random.default_rng(0)
X, TEST, Y = RANDOM.standard_normal((20, 7)), RANDOM.standard_normal((9, 7)), RANDOM.standard_normal((20, 3))
TIMES = [0.0, 1e-3, 1.0, 30.0, 1e3, np.inf]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def kernel():
    with jax.enable_x64(True):
        return sp.infinite_kernel(sp.network(MODELS["fc_relu"](), X[:2]), "ntk")


@pytest.fixture(scope="module")
def kernels(kernel):
    with jax.enable_x64(True):
        return kernel(X), kernel(TEST, X), kernel(TEST)


@needs_it
@pytest.mark.parametrize("which", ["ntk", "nngp"])
@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_flow_is_that_of_neural_tangents(nt, kernel, kernels, which, ridge):  # noqa: F811
    theirs = nt.predict.gradient_descent_mse_ensemble(sp.interop.kernel_fn_of(kernel), X, Y, learning_rate=0.7, diag_reg=ridge,
                                                      diag_reg_absolute_scale=True)
    train, cross, test = kernels
    mean, covariance = sp.dynamics.gradient_flow(train, Y, cross, test, t=TIMES, which=which, ridge=ridge, learning_rate=0.7)
    for k, t in enumerate(TIMES):
        expected = theirs(t, TEST, which, True)
        np.testing.assert_allclose(mean[k], expected.mean, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(covariance[k], expected.covariance, rtol=1e-6, atol=1e-9)
    solved = theirs(None, TEST, which, True)  # by Cholesky's factor
    np.testing.assert_allclose(mean[-1], solved.mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(covariance[-1], solved.covariance, rtol=1e-6, atol=1e-9)


@needs_it
@pytest.mark.parametrize("t", [0.5, 40.0])
def test_outputs_at_training_inputs_are_those_of_neural_tangents(nt, kernel, kernels, t):  # noqa: F811
    theirs = nt.predict.gradient_descent_mse_ensemble(sp.interop.kernel_fn_of(kernel), X, Y)(t, None, "ntk", True)
    mean, covariance = sp.dynamics.gradient_flow(kernels[0], Y, test=kernels[0], t=t)
    np.testing.assert_allclose(mean, theirs.mean, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(covariance, theirs.covariance, rtol=1e-6, atol=1e-9)


@needs_it
def test_posterior_is_that_of_neural_tangents(nt, kernels):  # noqa: F811
    train, cross, test = kernels
    infer = nt.predict.gp_inference(train, Y, diag_reg=0.1, diag_reg_absolute_scale=True)
    expected = infer("nngp", cross, test.nngp)
    found = sp.dynamics.posterior(train.nngp, Y, cross.nngp, test.nngp, 0.1)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9)
    regular = np.asarray(train.nngp) + 0.1 * np.eye(20)
    likelihood = -0.5 * (np.sum(Y * np.linalg.solve(regular, Y)) + 3 * (np.linalg.slogdet(regular)[1] + 20 * np.log(2 * np.pi)))
    assert found.jitter == 0 and found.log_likelihood == pytest.approx(likelihood, rel=1e-12)
    flow = sp.dynamics.gradient_flow(train, Y, cross, test, which="nngp", ridge=0.1)
    np.testing.assert_allclose(flow.covariance, found.covariance, rtol=1e-9, atol=1e-12)


@needs_it
def test_largest_learning_rate(nt, kernels):  # noqa: F811
    theirs = nt.predict.max_learning_rate(kernels[0].ntk, y_train_size=60)
    assert sp.dynamics.max_learning_rate(kernels[0].ntk, 3) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("factor", [0.01, 0.6, 0.99])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 50])
def test_descent_is_a_recursion(kernels, factor, steps):
    train, cross, test = kernels
    rate = factor * sp.dynamics.max_learning_rate(train.ntk, 3)
    found = sp.dynamics.gradient_descent(train, Y, cross, test, steps=steps, learning_rate=rate)
    joint = np.block([[np.asarray(train.nngp), np.asarray(cross.nngp).T], [np.asarray(cross.nngp), np.asarray(test.nngp)]])
    theta, linear, offset = np.vstack([train.ntk, cross.ntk]), np.eye(29), np.zeros((29, 3))
    for _ in range(steps):
        linear, offset = linear - rate / 60 * theta @ linear[:20], offset - rate / 60 * theta @ (offset[:20] - Y)
    np.testing.assert_allclose(found.mean, offset[20:], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.covariance, (linear @ joint @ linear.T)[20:, 20:], rtol=1e-9, atol=1e-12)


def test_small_steps_are_the_flow(kernels):
    train, cross, test = kernels
    flow = sp.dynamics.gradient_flow(train, Y[:, 0], cross, test, t=3.0)
    steps = sp.dynamics.gradient_descent(train, Y[:, 0], cross, test, steps=np.asarray([300, 300_000]), learning_rate=1e-5)
    assert flow.mean.shape == (9,) and steps.mean.shape == (2, 9) and steps.covariance.shape == (2, 9, 9)
    np.testing.assert_allclose(steps.mean[1], flow.mean, rtol=1e-4)


def test_flow_under_jit_and_vmap(kernels):
    train, cross, test = kernels
    expected = sp.dynamics.gradient_flow(train, Y, cross, test, t=2.0, ridge=0.1)
    found = jax.jit(partial(sp.dynamics.gradient_flow, t=2.0))(train, Y, cross, test, ridge=0.1)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8), tuple(found), tuple(expected))
    ridges = jax.vmap(lambda r: sp.dynamics.posterior(train.ntk, Y, cross.ntk, ridge=r).mean)(jnp.asarray([0.01, 0.1]))
    np.testing.assert_allclose(ridges[1], sp.dynamics.posterior(train.ntk, Y, cross.ntk, ridge=0.1).mean, rtol=1e-9)


def squared(f):
    return jnp.mean((f - Y) ** 2) / 2


@pytest.mark.slow
def test_integrated_flow_of_the_squared_error_is_the_closed_form(kernels):
    train, cross, _ = kernels
    times = [0.5, 3.0, 20.0]
    found = sp.dynamics.loss_flow(train.ntk, squared, times, cross.ntk, start=np.zeros_like(Y), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.test, sp.dynamics.gradient_flow(train, Y, cross, t=times).mean, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(found.train, sp.dynamics.gradient_flow(train, Y, t=times).mean, rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def digits():
    x = inputs.load("digits", 20, (64,), 2).astype(np.float64)
    return x[:12], x[12:], np.arange(12) % 10


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_flow_is_what_a_linearized_network_does(digits, loss):
    """A real linearized network trained by optax in small steps, from its own outputs and with its own tangent kernel, ten classes."""
    x, test, labels = digits
    net = sp.network(nn.Sequential([nn.Dense(128), nn.relu, nn.Dense(10)]), x)
    params = jax.tree.map(lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, net.init(jax.random.key(0)))
    cost = {"squared": lambda f: jnp.mean((f - jax.nn.one_hot(labels, 10)) ** 2) / 2,
            "cross-entropy": lambda f: optax.softmax_cross_entropy_with_integer_labels(f, labels).mean()}[loss]
    rate, steps = 1e-3, 200
    found = sp.dynamics.train_both(net, params, x, cost, optax.sgd(rate), steps, test)
    full = sp.empirical_kernel(net, outputs="full")
    theta, cross = (np.asarray(k.ntk).transpose(0, 2, 1, 3) for k in (full(params, x), full(params, test, x)))
    flat = sp.dynamics.loss_flow(theta.reshape(120, 120), lambda f: cost(f.reshape(12, 10)), [rate * steps], cross.reshape(80, 120),
                                 start=net.apply(params, x).reshape(120, 1), start_test=net.apply(params, test).reshape(80, 1))
    expected, begin = flat.test.reshape(8, 10), net.apply(params, test)
    change = float(np.sqrt(np.mean((expected - begin) ** 2)))
    assert np.sqrt(np.mean((found.linear_output[-1] - expected) ** 2)) < 5e-3 * change
    assert 0 < found.gap[-1] < 0.3 * change and found.gap[0] < 1e-12 and found.loss[-1] < found.loss[0] and found.moved[-1] > 0


def test_a_network_that_is_linear_is_its_linearization(digits):
    x, test, labels = digits
    net = sp.network(nn.Dense(10), x)
    params, y = net.init(jax.random.key(0)), jax.nn.one_hot(labels, 10)
    start, rate, n = net.apply(params, x), 0.1, x.shape[0]
    found = sp.dynamics.train_both(net, params, x, lambda f: jnp.mean((f - y) ** 2) / 2, optax.sgd(rate), 5)
    gram = x @ x.T + 1
    decayed = sp.dynamics.gradient_descent(sp.Kernel(gram, gram, 0.0), y - start, steps=np.arange(6), learning_rate=rate)
    np.testing.assert_allclose(found.output, start + decayed.mean, rtol=1e-5, atol=1e-6)
    assert found.gap.max() < 1e-6 and (np.diff(found.loss) < 0).all() and (np.diff(found.linear_loss) < 0).all()
    assert found.output.shape == (6, n, 10) and found.moved[0] == 0 < found.moved[1]


@pytest.mark.parametrize("kind", ["dense", "stored", "function"])
@pytest.mark.parametrize("rank", [0, 40])
def test_conjugate_gradients(tmp_path, kernel, kind, rank):
    x = RANDOM.standard_normal((150, 7))
    y, ridge = RANDOM.standard_normal((150, 4)), 1e-3
    dense = np.asarray(kernel(x).ntk)
    given = {"dense": dense, "function": lambda v: dense @ v}.get(kind)
    given = sp.gram(lambda a, b=None: sp.Kernel(dense, dense, 0.0), x, out=tmp_path / "K") if given is None else given
    found = sp.dynamics.conjugate_gradients(given, y, ridge, rank=rank, tolerance=1e-10)
    assert found.converged and found.residual < 2e-10
    np.testing.assert_allclose(found.x, np.linalg.solve(dense + ridge * np.eye(150), y), rtol=1e-4, atol=1e-6)
    if rank:
        assert found.iterations < sp.dynamics.conjugate_gradients(given, y, ridge, rank=0, tolerance=1e-10).iterations
    one = sp.dynamics.conjugate_gradients(given, y[:, 0], ridge, rank=rank, max_iterations=1)
    assert one.x.shape == (150,) and not one.converged and one.iterations == 1 and one.residual > 1e-6


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)])
def test_jitter_is_the_smallest_that_works(dtype):
    x = RANDOM.standard_normal((30, 4)).astype(dtype)
    regular, singular = np.eye(30, dtype=dtype), x @ x.T
    assert sp.dynamics.cholesky(regular).jitter == 0
    found = sp.dynamics.cholesky(singular)
    eps, scale = float(np.finfo(dtype).eps), np.trace(singular) / 30
    assert eps * scale * 0.99 < found.jitter < 1e4 * eps * scale
    assert not np.isfinite(np.asarray(jnp.linalg.cholesky(singular + found.jitter / 100 * np.eye(30, dtype=dtype)))).all()
    np.testing.assert_allclose(found.lower @ found.lower.T, singular, atol=1e5 * eps * scale)
    targets = (x @ np.ones(4)).astype(dtype)
    predicted = sp.dynamics.posterior(singular, targets, singular)
    assert predicted.jitter == found.jitter and np.all(np.isfinite(np.asarray(predicted.mean)))


def test_learning_curve_falls():
    x = inputs.load("digits", 300, (64,), 2).astype(np.float64)
    k = np.exp(-np.sum((x[:, None] - x) ** 2, -1) / 128)
    labels = inputs.digit_labels()[:300]
    found = sp.dynamics.learning_curve(k, np.eye(10)[labels], [20, 80, 200], 1e-6, repeats=4)
    mse, accuracy = found.mse.mean("repeat").values, found.accuracy.mean("repeat").values
    assert (np.diff(mse) < 0).all() and (np.diff(accuracy) > 0).all() and accuracy[-1] > 0.9


def test_cross_validation_is_each_regression_by_itself():
    x = inputs.load("digits", 120, (64,), 2).astype(np.float64)
    labels = inputs.digit_labels()[:120]
    nets = {depth: nn.Sequential([*(layer for _ in range(depth) for layer in (nn.Dense(64), nn.relu)), nn.Dense(1)]) for depth in (1, 2)}
    kernels = {depth: sp.infinite_kernel(sp.network(net, x[:2]), "ntk")(x).ntk for depth, net in nets.items()}
    found = sp.dynamics.cross_validate(kernels, labels, [1e-4, 1e-2, 1.0], folds=3)
    order = np.asarray(jax.random.permutation(jax.random.key(0), 120))
    y = 2.0 * np.eye(10)[labels] - 1

    def accuracy(k, ridge, train, test):
        regular = k[np.ix_(train, train)] + ridge * np.trace(k) / 120 * np.eye(len(train))
        return np.mean((k[np.ix_(test, train)] @ np.linalg.solve(regular, y[train])).argmax(1) == labels[test])

    for depth, k in kernels.items():
        for ridge in (1e-4, 1e-2, 1.0):
            assert float(found.validation.sel(kernel=depth, ridge=ridge)) == pytest.approx(
                accuracy(np.asarray(k), ridge, order[:60], order[60:]))
    assert found.validation.max() == found.validation.sel(kernel=found.kernel, ridge=found.ridge)
    parts = np.array_split(order, 3)
    expected = [accuracy(np.asarray(kernels[found.kernel]), found.ridge, np.concatenate(parts[:k] + parts[k + 1:]), part)
                for k, part in enumerate(parts)]
    np.testing.assert_allclose(found.folds, expected)
    assert found.accuracy == pytest.approx(np.mean(expected))


def test_in_float32(kernels):
    """Without JAX's 64 bits: results in the dtype of the kernel, close to those in float64; large systems in float64 all the same."""
    train, cross, test = kernels
    expected = sp.dynamics.gradient_flow(train, Y, cross, test, t=[1.0, np.inf], ridge=0.1)
    with jax.enable_x64(False):
        one, across, own = (sp.Kernel(*map(np.float32, k)) for k in kernels)
        found = sp.dynamics.gradient_flow(one, np.float32(Y), across, own, t=[1.0, np.inf], ridge=0.1)
        solved = sp.dynamics.conjugate_gradients(np.asarray(train.ntk), Y, 0.1, tolerance=1e-10)
        curve = sp.dynamics.learning_curve(np.float32(train.ntk), Y, [10], 0.1)
    assert found.mean.dtype == found.covariance.dtype == np.float32
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), tuple(found), tuple(expected))
    np.testing.assert_allclose(solved.x, np.linalg.solve(np.asarray(train.ntk) + 0.1 * np.eye(20), Y), rtol=1e-8)
    assert np.isfinite(curve.mse).all()


EYE = np.eye(4)
PAIR = sp.Kernel(EYE, EYE, 0.0)
D = sp.dynamics
ONES = np.ones((4, 4))
BAD = np.diag([1.0, 1, 1, -1])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: D.posterior(np.zeros((0, 0)), np.zeros(0), EYE), "train: shape .0, 0. is empty"),
    (lambda: D.posterior(EYE[:3], np.ones(4), EYE), "train: shape .3, 4. is not square"),
    (lambda: D.posterior(np.ones((4, 4, 2, 2)), np.ones(4), EYE), "train: shape .4, 4, 2, 2.; a kernel .n, n. is needed"),
    (lambda: D.posterior(EYE, np.ones(3), EYE), "y: shape .3,.; the kernel is of 4 examples"),
    (lambda: D.posterior(EYE, np.ones(4), EYE[:, :3]), "cross: shape .4, 3.; a kernel .m, 4. is needed"),
    (lambda: D.posterior(EYE, np.ones(4), EYE, EYE[:3, :3]), "test: shape .3, 3.; a kernel .4, 4. is needed"),
    (lambda: D.posterior(EYE, np.ones(4), np.nan * EYE), "cross: has NaN"),
    (lambda: D.posterior(EYE, np.nan * np.ones(4), EYE), "y: has NaN"),
    (lambda: D.posterior(np.triu(ONES), np.ones(4), EYE), "train: not symmetric"),
    (lambda: D.posterior(BAD, np.ones(4), EYE), "train: not positive semidefinite, its eigenvalues go from -1 to 1"),
    (lambda: D.posterior(EYE, np.ones(4), EYE, ridge=-1.0), "ridge: -1.0"), (lambda: D.cholesky(BAD), "kernel: not positive semidefinite"),
    (lambda: D.gradient_flow(PAIR, np.ones(4), t=-1.0), "t: -1.0 is not"),
    (lambda: D.gradient_flow(PAIR, np.ones(4), which="x"), "which: 'x'"),
    (lambda: D.gradient_flow(EYE, np.ones(4)), "train: .* is not an sp.Kernel"),
    (lambda: D.gradient_flow(PAIR._replace(ntk=None), np.ones(4)), "train: has no NTK; which='nngp'"),
    (lambda: D.gradient_flow(PAIR._replace(ntk=ONES), np.ones(4)), "train: singular, its rank is 1 of 4, and t is infinite"),
    (lambda: D.gradient_flow(PAIR._replace(ntk=BAD), np.ones(4), t=1.0), "train: not positive semidefinite"),
    (lambda: D.gradient_flow(PAIR, np.ones(4), PAIR._replace(ntk=EYE[:, :2])), r"cross.ntk: shape \(4, 2\)"),
    (lambda: D.gradient_descent(PAIR, np.ones(4), steps=1.5, learning_rate=1.0), "steps: 1.5"),
    (lambda: D.gradient_descent(PAIR, np.ones(4), steps=10**5, learning_rate=100.0), "overflows"),
    (lambda: D.conjugate_gradients(EYE, np.ones(3), 1.0), "y: 3 targets for a kernel of 4"),
    (lambda: D.conjugate_gradients(EYE, np.ones(4), 0.0), "ridge: 0.0 given; it must be above 0"),
    (lambda: D.conjugate_gradients(BAD, np.ones(4), 1e-3), "kernel: not positive semidefinite"),
    (lambda: D.conjugate_gradients(BAD, np.ones(4), 1e-3, rank=0), "kernel: not positive semidefinite"),
    (lambda: D.conjugate_gradients(lambda v: v, np.zeros(0), 1.0), "y: shape"),
    (lambda: D.learning_curve(EYE, np.ones(4), [4]), "sizes: 4 given, 4 examples leave none"),
    (lambda: D.cross_validate({}, np.arange(4)), "kernels: none given"),
    (lambda: D.cross_validate({1: EYE}, np.arange(3)), "of 4 examples"),
    (lambda: D.cross_validate({1: EYE}, np.ones(4)), "labels: shape .4,., dtype float64"),
    (lambda: D.cross_validate({1: EYE}, np.ones(4, int)), "labels: 1 classes"),
    (lambda: D.cross_validate({1: EYE}, np.arange(4)), "folds: 4 of 4"),
    (lambda: D.cross_validate({1: EYE}, np.arange(4), [-1.0], folds=2), "ridges: "),
    (lambda: D.loss_flow(EYE, lambda f: f, [1.0], start=np.zeros((4, 1))), "loss: returns"),
    (lambda: D.loss_flow(EYE, jnp.sum, [1.0, 0.5], start=np.zeros((4, 1))), "times: "),
    (lambda: D.loss_flow(EYE, jnp.sum, [1.0], start=np.zeros((3, 1))), "start: shape"),
    (lambda: D.loss_flow(EYE, lambda f: 50 * jnp.sum(f**2), [1e3], start=np.ones((4, 1)), max_steps=20), "more than 20 steps"),
])
def test_bad_input(call, message):
    with pytest.raises((sp.InvalidInput, sp.Unsound), match=message):
        call()


def test_a_singular_kernel_is_fine_at_finite_times():
    found = D.gradient_flow(PAIR._replace(ntk=ONES), np.ones(4), t=1e6)
    np.testing.assert_allclose(found.mean, np.ones(4), rtol=1e-9)
