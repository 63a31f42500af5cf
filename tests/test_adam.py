"""Predicted second moments of a loss's gradient against those that optax's optimizers hold, on digits.

Measurements average over draws of the parameters, a fresh minibatch for each, at two widths, from which the limit is extrapolated as in
``harness.check_limit``. Sampling noise is taken off by a control variate: the same moment for the outputs of an infinitely wide network
that are coupled to those of the finite one, whose mean is known. Comparisons raise a false alarm with probability 1e-6 per network and
see discrepancies of ``detects`` in any leaf. Squared errors of ``k`` outputs feed back on the loss, a correction of order ``k²/width``:
of ten outputs it is 22 % at width 256, so that less is seen of them.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import Sample, agree, sample

import sigprop as sp
from sigprop.empirical.gradients import loss_gradients

load_digits = pytest.importorskip("sklearn.datasets").load_digits
DIGITS = load_digits()
N = 8
X = ((DIGITS.data - DIGITS.data.mean()) / DIGITS.data.std()).astype(np.float32)[:N]
IMAGES = X.reshape(N, 8, 8, 1)[:4]
LABELS = DIGITS.target[:N].astype(np.int32)
ONE_HOT = np.eye(10, dtype=np.float32)[LABELS]
PARITY = (2.0 * (LABELS % 2) - 1).astype(np.float32)[:, None]


def mse(y, t):
    return jnp.mean((y - t) ** 2)


def cross_entropy(y, t):
    return optax.softmax_cross_entropy_with_integer_labels(y, t).mean()


def mlp(activation, outputs, width=256):
    return nn.Sequential([nn.Dense(width), activation, nn.Dense(width), activation, nn.Dense(outputs)])


def pooled(outputs, width):
    halved = [nn.Conv(width, (3, 3)), nn.relu, lambda x: nn.avg_pool(x, (2, 2), (2, 2))]
    return nn.Sequential([*halved, nn.Conv(width, (3, 3)), nn.relu, lambda x: x.mean((1, 2)), nn.Dense(outputs)])


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return x + nn.Dense(self.width)(nn.relu(nn.Dense(self.width)(nn.LayerNorm()(x))))


def pre_norm(outputs, width):
    return nn.Sequential([nn.Dense(width), Block(width), Block(width), nn.LayerNorm(), nn.Dense(outputs)])


CASES = {  # name: (model of a width, inputs, loss, targets, narrower width, seeds, detects)
    "relu, cross-entropy": (lambda n: mlp(nn.relu, 10, n), X, cross_entropy, LABELS, 128, 14336, 0.03),
    "tanh, cross-entropy": (lambda n: mlp(nn.tanh, 10, n), X, cross_entropy, LABELS, 128, 14336, 0.03),
    "relu, one output": (lambda n: mlp(nn.relu, 1, n), X, mse, PARITY, 128, 49152, 0.05),
    "tanh, one output": (lambda n: mlp(nn.tanh, 1, n), X, mse, PARITY, 128, 49152, 0.05),
    "relu, ten outputs": (lambda n: mlp(nn.relu, 10, n), X, mse, ONE_HOT, 256, 6144, 0.15),
    "cnn, cross-entropy": (lambda n: pooled(10, n), IMAGES, cross_entropy, LABELS[:4], 64, 6144, 0.08),
    "cnn, one output": (lambda n: pooled(1, n), IMAGES, mse, PARITY[:4], 64, 16384, 0.1),
    "pre-norm, cross-entropy": (lambda n: pre_norm(10, n), X, cross_entropy, LABELS, 128, 9216, 0.05),
}
LIMIT = 1 << 23  # outputs drawn for the mean of the control variate


def measured(build, width, x, loss, targets, batch_size, seeds):
    """Second moments over predicted ones, leaf by leaf: means over groups of 32 seeds, of which each is an observation."""
    model, x, targets = build(width), jnp.asarray(x), jnp.asarray(targets)
    net, size, head = sp.network(model, x), batch_size or len(x), f"layers_{len(model.layers) - 1}"
    predicted = sp.adam_second_moment(net, loss, (np.asarray(x), np.asarray(targets)), batch_size=batch_size)
    kernel = sp.infinite_kernel(net, per_leaf=True)(np.asarray(x))
    expected = jnp.asarray([leaf.second_moment for leaf in predicted.values()])
    theta = jnp.stack([kernel.ntk[path] / leaf.entries.size for path, leaf in predicted.items()])

    def root(gram):
        return jnp.linalg.cholesky(gram + 1e-6 * jnp.trace(gram) / size * jnp.eye(size))

    def limit(z, chosen):
        """Of outputs ``root(K) z`` in the infinite-width limit: E[g²] given them, for each leaf."""
        pairs = jnp.ix_(chosen, chosen)
        l = jax.grad(loss)(root(kernel.nngp[pairs]) @ z, targets[chosen])
        return jnp.einsum("bo,co,kbc->k", l, l, theta[:, pairs[0], pairs[1]]) / expected

    def batch(key):
        return jnp.arange(size) if batch_size is None else jax.random.choice(jax.random.fold_in(key, 2), len(x), (size,), replace=False)

    def finite(key):
        params, chosen = net.init(key), batch(key)
        grads = loss_gradients(net, loss, params, (x[chosen],), (targets[chosen],))
        variables = dict(params["variables"]["params"])
        last = variables.pop(head)["kernel"]
        h = nn.Sequential(model.layers[:-1]).apply({"params": variables}, x[chosen])
        z = jax.scipy.linalg.solve_triangular(root(h @ h.T / h.shape[-1]), h @ last, lower=True)
        return jnp.stack([jnp.mean(g**2) for g in grads.values()]) / expected - limit(z, chosen)

    def infinite(key):
        return limit(jax.random.normal(key, (size, model.layers[-1].features)), batch(key))

    draws = LIMIT // (size * model.layers[-1].features)
    rest, known = (np.asarray(jax.jit(lambda keys, f=f: jax.lax.map(lambda k: jax.vmap(f)(k).mean(0), keys))(
        jax.random.split(jax.random.key(width + k), (count // 32, 32))), float) for k, (f, count) in enumerate(
            ((finite, seeds), (infinite, draws))))
    return sample(rest), sample(known)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("name", CASES)
def test_second_moments(name, batch_size):
    build, x, loss, targets, width, seeds, detects = CASES[name]
    (narrow, one), (wide, two) = (measured(build, n, x, loss, targets, batch_size, seeds) for n in (width, 2 * width))
    limit = Sample(2 * (wide.mean + two.mean) - narrow.mean - one.mean,
                   np.sqrt(4 * (wide.stderr**2 + two.stderr**2) + narrow.stderr**2 + one.stderr**2), wide.dof)
    correction = 2 * (narrow.mean + one.mean - wide.mean - two.mean)
    agree(np.ones_like(limit.mean), limit, detects=detects, allowance=correction**2 + (5 / width) ** 2)


def optax_states(net, loss, x, targets, rule, steps, batch_size, seeds=512):
    """Second-moment state after ``steps`` gradients of fresh minibatches at frozen parameters, and the first update."""
    def one(key):
        params = net.init(key)
        chosen = [jax.random.choice(jax.random.fold_in(key, 3 + s), N, (batch_size,), replace=False) for s in range(steps)]
        grads = [loss_gradients(net, loss, params, (jnp.asarray(x)[c],), (jnp.asarray(targets)[c],)) for c in chosen]
        leaves = {k: p for k, p in zip(grads[0], [v for v, t in zip(jax.tree.leaves(params), net.trainable, strict=True) if t],
                                       strict=True)}
        state, first = rule.init(leaves), None
        for g in grads:
            update, state = rule.update(g, state, leaves)
            first = update if first is None else first
        return state, jax.tree.map(lambda u: jnp.mean(u**2), first)

    states, first = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=16))(jax.random.split(jax.random.key(5), seeds))
    return states, {k: float(jnp.sqrt(v.mean())) for k, v in first.items()}


def nu_of(states):
    return next(s.nu for s in jax.tree.leaves(states, is_leaf=lambda s: hasattr(s, "nu")) if hasattr(s, "nu"))


RULES = {
    "adam": ({"b2": 0.9, "lr": 1e-2, "eps": 1e-3}, lambda: optax.adam(1e-2, b2=0.9, eps=1e-3)),
    "adamw": ({"b2": 0.99, "weight_decay": 0.5}, lambda: optax.adamw(1e-3, b2=0.99, weight_decay=0.5)),
    "rmsprop": ({"decay": 0.8, "eps": 1e-4}, lambda: optax.rmsprop(1e-3, decay=0.8, eps=1e-4)),
}


@pytest.mark.parametrize("name", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "rmsprop"))])
def test_states_of_optax(name):
    options, rule = RULES[name]
    net = sp.network(mlp(nn.tanh, 10, 128), X)
    predicted = sp.adam_second_moment(net, cross_entropy, (X, LABELS), optimizer=name, steps=3, batch_size=4, **options)
    states, first = optax_states(net, cross_entropy, X, LABELS, rule(), 3, 4)
    for path, leaf in predicted.items():
        own = np.asarray(nu_of(states)[path], float)
        agree(leaf.nu, sample(own.reshape(32, 16, -1).mean((1, 2))), false_alarm=1e-6 / len(predicted), detects=0.2, allowance=8 / 128)
        assert abs(first[path] - leaf.update) < leaf.update_error + 0.03 * leaf.update, path


@pytest.mark.slow
def test_gradients_that_are_not_normal_are_in_the_error_of_the_update():
    """At the output they are bounded: the step of RMSProp is larger by 8.6 % than that of normal ones, at any width."""
    for width in (32, 64):
        net = sp.network(mlp(nn.tanh, 10, width), X)
        options = {"optimizer": "rmsprop", "decay": 0.8, "eps": 1e-4}
        leaf = sp.adam_second_moment(net, cross_entropy, (X, LABELS), batch_size=4, **options)["layers_4/bias"]
        _, first = optax_states(net, cross_entropy, X, LABELS, optax.rmsprop(1e-3, decay=0.8, eps=1e-4), 1, 4)
        assert first["layers_4/bias"] == pytest.approx(1.0855 * leaf.update, rel=0.005)
        assert abs(first["layers_4/bias"] - leaf.update) < leaf.update_error < 0.15 * leaf.update


def test_factors_of_adafactor():
    net = sp.network(mlp(nn.tanh, 10, 128), X)
    predicted = sp.adam_second_moment(net, cross_entropy, (X, LABELS), optimizer="adafactor", steps=2, batch_size=4, lr=1e-2)
    states, first = optax_states(net, cross_entropy, X, LABELS, optax.adafactor(1e-2), 2, 4)
    factored = next(s for s in jax.tree.leaves(states, is_leaf=lambda s: hasattr(s, "v_row")) if hasattr(s, "v_row"))
    path = "layers_2/kernel"
    for mine, own in zip(predicted.factors(path), (factored.v_row[path], factored.v_col[path]), strict=True):
        assert mine.shape == own.shape[1:]
        agree(mine.mean(), sample(np.asarray(own, float).reshape(32, 16, -1).mean((1, 2))), detects=0.2, allowance=8 / 128)
    assert first[path] == pytest.approx(predicted[path].update, rel=0.05)


def test_the_mean_squared_error_is_exact():
    """One layer y = x w / sqrt(d): g = 2 x (y - t) / N, so that E[g²] has a closed form."""
    x, t = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32), np.array([[1.0], [-2.0]], np.float32)
    net = sp.network(lambda p, x: x @ p, x, init=lambda key: jax.random.normal(key, (2, 1)))
    found = sp.adam_second_moment(net, lambda y, t: jnp.mean((y - t) ** 2), (x, t))["params"]
    moment = x @ x.T + t @ t.T
    np.testing.assert_allclose(found.entries[:, 0], np.einsum("bi,ci,bc->i", x, x, moment), rtol=1e-6)


def test_the_smallest_steps_are_those_of_sgd():
    def small(y, t):
        return 1e-7 * mse(y, t)

    net = sp.network(mlp(nn.relu, 1), X)
    found = sp.adam_second_moment(net, small, (X, PARITY), eps=1e-8)
    assert "layers_0/kernel" in found.starved and "below eps: SGD" in str(found)
    leaf = found["layers_0/kernel"]
    assert leaf.update < 0.7e-3
    assert sp.adam_second_moment(net, mse, (X, PARITY)).starved == []


def test_a_sum_is_as_many_means():
    net = sp.network(mlp(nn.relu, 1), X)
    mean = sp.adam_second_moment(net, mse, (X, PARITY), batch_size=2)
    total = sp.adam_second_moment(net, lambda y, t: jnp.sum((y - t) ** 2), (X, PARITY), batch_size=2)
    for path in mean:
        assert total[path].second_moment == pytest.approx(4 * mean[path].second_moment, rel=1e-6)


def test_the_tree_is_like_the_parameters():
    net = sp.network(mlp(nn.relu, 1), X)
    found = sp.adam_second_moment(net, mse, (X, PARITY))
    assert jax.tree.structure(found.tree) == jax.tree.structure(net.abstract_params)
    with pytest.raises(KeyError, match="no such trained parameter"):
        found["nothing"]


def test_zero_heads_still_move():
    model = nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(3, kernel_init=nn.initializers.zeros)])
    found = sp.adam_second_moment(sp.network(model, X), cross_entropy, (X, LABELS % 3))
    assert found["layers_0/kernel"].second_moment == 0.0 and found["layers_2/kernel"].second_moment > 0.0


NET = sp.network(mlp(nn.relu, 1), X)


@pytest.mark.parametrize(("loss", "batch", "options", "message"), [
    (lambda y, t: (y - t) ** 2, (X, PARITY), {}, "loss: it gives .* not one real number"),
    (lambda y, t: jnp.sum(y > t), (X, PARITY), {}, "not one real number"),
    (lambda y, t: (mse(y, t), y), (X, PARITY), {}, "not one real number"),
    (lambda y, t: mse(y, t)[None], (X, PARITY), {}, "not one real number"),
    (lambda y, t: mse(y, t) + 1j, (X, PARITY), {}, "not one real number"),
    (lambda y, t: None, (X, PARITY), {}, "loss: it gives None"),
    ("mse", (X, PARITY), {}, "loss: str is not a function loss"),
    (lambda y: y.missing, X, {}, "loss: raised"),
    (mse, (X, PARITY[:3]), {}, "targets.*8 examples"),
    (mse, (X, np.float32(1.0)), {}, "targets"),
    (mse, (X, PARITY * np.nan), {}, "targets.*NaN"),
    (mse, X, {}, "loss: raised"),
    (mse, (X * np.nan, PARITY), {}, "NaN"),
    (mse, (X, PARITY), {"beta": 0.9}, "beta: adam has no such option"),
    (mse, (X, PARITY), {"b2": 1.0}, r"b2: 1.0 is not a number in \[0, 1\)"),
    (mse, (X, PARITY), {"eps": -1.0}, "eps"),
    (mse, (X, PARITY), {"optimizer": "sgd"}, "holds no second moment"),
    (mse, (X, PARITY), {"optimizer": "lion"}, "every entry moves by lr"),
    (mse, (X, PARITY), {"optimizer": "rprop"}, "step sizes and no second moment"),
    (mse, (X, PARITY), {"optimizer": "adan"}, "none of 'adam'"),
    (mse, (X, PARITY), {"optimizer": optax.sgd(1e-3)}, "optimizer: GradientTransformation.* is not a name; give one of 'adam'"),
    (mse, (X, PARITY), {"optimizer": optax.sgd}, "optimizer: sgd is not a name"),
    (mse, (X, PARITY), {"steps": 0}, "steps"),
    (mse, (X, PARITY), {"batch_size": 9}, "batch_size: 9"),
    (lambda y, t: jnp.sum(jnp.sqrt(y * 0)), (X, PARITY), {}, "loss: its gradient is NaN"),
])
def test_bad_input_is_named(loss, batch, options, message):
    with pytest.raises(sp.InvalidInput, match=message):
        sp.adam_second_moment(NET, loss, batch, **options)


def test_minibatches_need_separate_examples():
    with pytest.raises(sp.Unsound, match="neither the mean nor the sum"):
        sp.adam_second_moment(NET, lambda y, t: jnp.mean((y - t[:, 0]) ** 2), (X, PARITY), batch_size=2)


def test_batches_are_concrete():
    with pytest.raises(sp.InvalidInput, match="batch: traced"):
        jax.jit(lambda x: sp.adam_second_moment(NET, mse, (x, PARITY)).tree)(X)


def test_integer_outputs_have_no_loss():
    net = sp.network(lambda p, x: jnp.argmax(x @ p, -1), X, init=lambda key: jax.random.normal(key, (64, 5)))
    with pytest.raises(sp.SigpropError):
        sp.adam_second_moment(net, lambda y: jnp.sum(y * 1.0), X)


def test_lion_moves_by_its_rate():
    """What the refusal says of it."""
    rule, g = optax.lion(1e-3), jnp.asarray([1e-9, -5.0, 0.3])
    update, _ = rule.update(g, rule.init(g), g * 0)
    np.testing.assert_allclose(np.abs(update), 1e-3, rtol=1e-5)
