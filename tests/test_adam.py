"""Predicted second moments of a loss's gradient against those that optax's optimizers hold, on digits.

Measurements average over draws of the parameters, one fresh minibatch for each; comparisons raise a false alarm with probability 1e-6
per network and see discrepancies of ``detects``, of which 8/width is an allowance for the finite width. Squared errors are taken of one
output: ``k`` of them after ``n`` units feed back on the loss that is a function of them, a correction of order ``k²/n``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harness import agree, sample

import sigprop as sp
from sigprop.empirical import measure_gradients
from sigprop.empirical.gradients import loss_gradients

load_digits = pytest.importorskip("sklearn.datasets").load_digits
DIGITS = load_digits()
N = 8
X = ((DIGITS.data - DIGITS.data.mean()) / DIGITS.data.std()).astype(np.float32)[:N]
IMAGES = X.reshape(N, 8, 8, 1)
LABELS = DIGITS.target[:N].astype(np.int32)
PARITY = (2.0 * (LABELS % 2) - 1).astype(np.float32)[:, None]


def mse(y, t):
    return jnp.mean((y - t) ** 2)


def cross_entropy(y, t):
    return optax.softmax_cross_entropy_with_integer_labels(y, t).mean()


def mlp(activation, outputs, width=256):
    return nn.Sequential([nn.Dense(width), activation, nn.Dense(width), activation, nn.Dense(outputs)])


class Pooled(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.relu(nn.Conv(128, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(self.outputs)(nn.relu(nn.Conv(128, (3, 3))(x)).mean((1, 2)))


class PreNorm(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(256)(x)
        for _ in range(2):
            x = x + nn.Dense(256)(nn.relu(nn.Dense(256)(nn.LayerNorm()(x))))
        return nn.Dense(self.outputs)(nn.LayerNorm()(x))


CASES = {
    "relu, mse": (mlp(nn.relu, 1), X, mse, PARITY), "relu, cross-entropy": (mlp(nn.relu, 10), X, cross_entropy, LABELS),
    "tanh, mse": (mlp(nn.tanh, 1), X, mse, PARITY), "tanh, cross-entropy": (mlp(nn.tanh, 10), X, cross_entropy, LABELS),
    "cnn, mse": (Pooled(1), IMAGES, mse, PARITY), "cnn, cross-entropy": (Pooled(10), IMAGES, cross_entropy, LABELS),
    "pre-norm, mse": (PreNorm(1), X, mse, PARITY), "pre-norm, cross-entropy": (PreNorm(10), X, cross_entropy, LABELS),
}
FAST = ("relu, cross-entropy", "tanh, cross-entropy")


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES])
def test_second_moments(name, batch_size):
    model, x, loss, targets = CASES[name]
    net = sp.network(model, x)
    predicted = sp.adam_second_moment(net, loss, (x, targets), batch_size=batch_size)
    seeds = 4096 if isinstance(model, PreNorm) or loss is mse else 2048
    found = measure_gradients(net, loss, x, (targets,), seeds=seeds, group=16, batch_size=batch_size)
    detects = 0.25 if loss is mse else 0.2 if x is IMAGES else 0.12
    for path, leaf in predicted.items():
        measured = sample(np.asarray(found[path], float).mean(1))
        agree(leaf.second_moment, measured, false_alarm=1e-6 / len(predicted), detects=detects, allowance=8 / (128 if x is IMAGES else 256))


def optax_states(net, loss, x, targets, rule, steps, batch_size, seeds=256):
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


@pytest.mark.parametrize("name", RULES)
def test_states_of_optax(name):
    options, rule = RULES[name]
    net = sp.network(mlp(nn.tanh, 10), X)
    predicted = sp.adam_second_moment(net, cross_entropy, (X, LABELS), optimizer=name, steps=3, batch_size=4, **options)
    states, first = optax_states(net, cross_entropy, X, LABELS, rule(), 3, 4)
    for path, leaf in predicted.items():
        own = np.asarray(nu_of(states)[path], float)
        measured = sample(own.reshape(16, 16, -1).mean((1, 2)))
        agree(leaf.nu, measured, false_alarm=1e-6 / len(predicted), detects=0.45, allowance=0.06)
        if path != "layers_4/bias":  # its gradient is no wide sum, so not normal, which matters where epsilon does
            assert first[path] == pytest.approx(leaf.update, rel=0.05), path


def test_factors_of_adafactor():
    net = sp.network(mlp(nn.tanh, 10), X)
    predicted = sp.adam_second_moment(net, cross_entropy, (X, LABELS), optimizer="adafactor", steps=2, batch_size=4, lr=1e-2)
    states, first = optax_states(net, cross_entropy, X, LABELS, optax.adafactor(1e-2), 2, 4)
    factored = next(s for s in jax.tree.leaves(states, is_leaf=lambda s: hasattr(s, "v_row")) if hasattr(s, "v_row"))
    path = "layers_2/kernel"
    for mine, own in zip(predicted.factors(path), (factored.v_row[path], factored.v_col[path]), strict=True):
        assert mine.shape == own.shape[1:]
        agree(mine.mean(), sample(np.asarray(own, float).reshape(16, 16, -1).mean((1, 2))), detects=0.3, allowance=0.06)
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
