"""Training on digits, watched: the log holds what gradients are, and the prediction agrees with it at the first step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sigprop as sp
from sigprop.dynamics import Watch
from sigprop.inputs import digit_labels, load

X, LABELS = load("digits", 64, None, 2), digit_labels()[:64]
WIDTH, DRAWS, SIZE = 128, 24, 16


def loss(y, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(y), labels[:, None], -1))


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, 10, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.hidden(x)))


LINEN = nn.Sequential([nn.Dense(WIDTH), nn.relu, nn.Dense(10)])


def moments(model, **options):
    return sp.adam_second_moment(sp.network(model, X), loss, (X, LABELS), **options)


@pytest.fixture(scope="module")
def watch():
    return Watch(moments(Net, batch_size=SIZE, lr=1e-2), steps=5)


def minibatches(key, steps):
    return [jax.random.choice(k, len(X), (SIZE,), replace=False) for k in jax.random.split(key, steps)]


@pytest.mark.slow
def test_nnx_optimizer_is_watched_and_the_first_step_is_as_predicted(watch):
    @nnx.jit
    def step(model, optimizer, x, labels):
        gradients = nnx.grad(lambda m: loss(m(x), labels))(model)
        optimizer.update(model, gradients)
        return gradients

    first = []
    for seed in range(DRAWS):
        model = Net(nnx.Rngs(seed))
        optimizer = nnx.Optimizer(model, watch(optax.adam(1e-2)), wrt=nnx.Param)
        for k, chosen in enumerate(minibatches(jax.random.key(seed), 7 if seed == 0 else 1)):
            gradients = step(model, optimizer, X[chosen], LABELS[chosen])
            direct = np.sqrt(np.mean(np.asarray(gradients["hidden"]["kernel"][...]) ** 2))
            if k < 5:
                np.testing.assert_allclose(watch.log(optimizer).rms_gradient.sel(parameter="hidden/kernel")[k], direct, rtol=1e-5)
        if seed == 0:
            assert watch.log(optimizer).sizes["step"] == 5  # of seven
        first.append(watch.log(optimizer).isel(step=0))
    ratio = np.array([log.ratio.values**2 for log in first])
    stderr = ratio.std(0, ddof=1) / DRAWS**0.5
    assert (abs(ratio.mean(0) - 1) < 5 * stderr + 10 / WIDTH).all()  # ten outputs: of order outputs / width
    assert float(first[0].rms_update.sel(parameter="head/bias")) == pytest.approx(1e-2, rel=1e-4)  # epsilon is 1e-8, gradients 1e-3
    np.testing.assert_allclose(first[0].predicted_update, 1e-2, rtol=1e-4)
    assert (stderr < 0.1).all()


@pytest.mark.parametrize("nested", [False, True], ids=["params", "variables"])
def test_plain_optax_in_a_scan(nested):
    watch = Watch(moments(LINEN), steps=4)
    params = LINEN.init(jax.random.key(1), X)["params"]
    begin = {"params": params} if nested else params
    plain, watched = (optimizer for optimizer in (optax.sgd(0.1, momentum=0.9), watch(optax.sgd(0.1, momentum=0.9))))

    def trained(optimizer):
        def step(state, _):
            now, memory = state
            gradient = jax.grad(lambda p: loss(LINEN.apply(p if nested else {"params": p}, X), LABELS))(now)
            updates, memory = optimizer.update(gradient, memory, now)
            return (optax.apply_updates(now, updates), memory), None

        return jax.jit(lambda: jax.lax.scan(step, (begin, optimizer.init(begin)), length=3))()[0]

    (one, _), (two, state) = trained(plain), trained(watched)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    log = watch.log(state)
    assert log.sizes == {"step": 3, "parameter": 4}
    np.testing.assert_allclose(log.rms_update[0], 0.1 * log.rms_gradient[0], rtol=1e-5)
    assert float(log.rms_weight.sel(parameter="layers_0/kernel")[0]) == pytest.approx(1 / 8, rel=0.05)  # LeCun of 64 inputs


def test_bad_use_is_named(watch):
    with pytest.raises(sp.InvalidInput, match="moments: dict given; it is what sp.adam_second_moment"):
        Watch({})
    with pytest.raises(sp.InvalidInput, match="steps: "):
        Watch(watch.moments, steps=0)
    with pytest.raises(sp.InvalidInput, match="optimizer: float given; .* optax.adam"):
        watch(0.1)
    with pytest.raises(sp.InvalidInput, match="params: 'head/bias' is a parameter of the prediction alone"):
        watch(optax.adam(0.1)).init(LINEN.init(jax.random.key(0), X)["params"])
    with pytest.raises(sp.InvalidInput, match="state: .* not watched"):
        watch.log(optax.adam(0.1).init({"w": X}))
