"""Masks, what they leave of the variance, and pruning on real images."""

from functools import partial
from math import sqrt

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from harness import Sample, agree, sample
from jax.nn.initializers import glorot_normal, he_normal, he_uniform, normal, variance_scaling

import sigprop as sp
from sigprop import sparse
from sigprop.inputs import digit_labels, load

X = load("digits", 4, None, 2)
HE = variance_scaling(2.0, "fan_in", "normal")
CLASS_LOSS = lambda y, t: optax.softmax_cross_entropy_with_integer_labels(y, t).mean()  # noqa: E731


def perceptron(depth, width=512, init=HE, out=10):
    def factory(rngs):
        layers = [layer for k in range(depth) for layer in (nnx.Linear(width if k else 64, width, kernel_init=init, rngs=rngs), nnx.relu)]
        return nnx.Sequential(*layers, nnx.Linear(width, out, kernel_init=init, rngs=rngs))

    return sp.network(factory, X)


def factors(net):
    """Of E[z²] from one hidden layer to the next, where the input no longer matters."""
    found = sp.propagate(net, X, backward=False)
    second = found.second_moment.values[[str(n).startswith("layers") for n in found.node.values]]
    return second[1:-1] / second[:-2]


def sampled(net, seeds, key=0):
    """E[z²] of the output over draws, and its standard error."""
    outputs = jax.jit(jax.vmap(lambda k: jnp.mean(net.apply(net.init(k), X) ** 2)))(jax.random.split(jax.random.key(key), seeds))
    return float(jnp.mean(outputs)), float(jnp.std(outputs, ddof=1)) / sqrt(seeds)


@pytest.mark.parametrize("kept, factor", [(0.5, 0.9287), (0.2, 0.6498), (0.1, 0.4393), (0.05, 0.2791), (0.01, 0.0845)])
def test_magnitudes_keep_more_of_the_variance_than_of_the_weights(kept, factor):
    found = sparse.share(sp.Law(0.0, 0.3), kept)
    assert found.variance == pytest.approx(factor, abs=6e-5)
    net = sparse.thresholded(perceptron(3), kept)
    np.testing.assert_allclose(factors(net), found.variance, rtol=1e-6)  # the interpreter follows the weights as functions of themselves


@pytest.mark.parametrize("kept", [0.3, 0.0100001, 0.003])
@pytest.mark.parametrize("family", ["normal", "truncated_normal", "uniform"])
def test_thresholds_are_followed_for_all_families(family, kept):
    """What is declared is what float32 leaves: a threshold rounded by 3e-8 of itself moves 1e-5 of the last weights of a uniform law."""
    net = sparse.thresholded(perceptron(2, 64, variance_scaling(2.0, "fan_in", family)), kept)
    found = sp.propagate(net, X, backward=False)
    assert float(found.error.max() / found.second_moment.max()) < 1e-9
    law = dict(net.laws)["layers/2/kernel"]
    np.testing.assert_allclose(factors(net), sparse.share(law, kept).variance, rtol=2e-5)


@pytest.mark.parametrize("family", ["normal", "truncated normal", "uniform", "laplace"])
def test_shares_of_families(family):
    """Against the weights themselves: half a million draws."""
    law = sp.Law(0.0, 2.0, family)
    draw = {"normal": normal(sqrt(2)), "truncated normal": variance_scaling(2.0, "fan_in", "truncated_normal"),
            "uniform": variance_scaling(2.0, "fan_in", "uniform"),
            "laplace": lambda k, s, d: jax.random.laplace(k, s, d)}[family]
    w = np.asarray(draw(jax.random.key(0), (1, 1 << 19), jnp.float32), np.float64)
    for kept in (0.05, 0.3, 0.9):
        found = sparse.share(law, kept)
        assert np.mean(abs(w) >= found.threshold) == pytest.approx(kept, abs=5 * sqrt(kept / w.size))
        assert (w**2)[abs(w) >= found.threshold].sum() / (w**2).sum() == pytest.approx(found.variance, rel=0.02)
    assert sparse.share(law, 1.0).variance == pytest.approx(1, abs=1e-8)
    if family == "uniform":
        assert sparse.share(law, 0.3).variance == pytest.approx(1 - 0.7**3, rel=1e-9)


def test_random_masks_decay_and_their_correction_is_flat():
    net, kept = perceptron(4), 0.25
    masks = sparse.mask(sparse.random(net, jax.random.key(1)), kept)
    shares = {path: p for path, (p, _) in sparse.kept_shares(net.init(jax.random.key(2)), masks).items()}
    assert set(shares) == set(sparse.prunable(net)) and all(p == pytest.approx(kept, abs=1e-3) for p in shares.values())
    np.testing.assert_allclose(factors(sparse.masked(net, masks))[1:], kept, rtol=2e-3)  # units keep unequal numbers of weights
    np.testing.assert_allclose(factors(sparse.masked(sparse.corrected(net, shares), masks))[1:], 1, rtol=2e-3)
    ratio = dict(sparse.corrected(net, shares).laws)["layers/2/kernel"].variance / dict(net.laws)["layers/2/kernel"].variance
    assert ratio == pytest.approx(1 / shares["layers/2/kernel"], rel=1e-6)


@pytest.mark.slow
def test_masked_networks_against_measurement():
    """E[z²] and E[g²] of a network with fixed masks (false alarm 1e-6, detects 6 %)."""
    net = perceptron(3, 256, out=256)
    net = sparse.masked(net, sparse.mask(sparse.random(net, jax.random.key(3)), 0.3))
    found, measured = sp.propagate(net, X), sp.measure(net, X, seeds=1024, key=jax.random.key(4))
    second = Sample(measured.second_moment.values, measured.second_moment_stderr.values, 1023)
    agree(found.second_moment.values, second, detects=0.06, allowance=0.005)
    slopes = Sample(measured.grad_variance.values[1:], measured.grad_variance_stderr.values[1:], 1023)
    agree(found.grad_variance.values[1:], slopes, detects=0.06, allowance=0.01)


def test_pruning_by_magnitude_against_measurement():
    """Of uniform weights (false alarm 1e-6, detects 6 %)."""
    net = sparse.thresholded(perceptron(2, 256, he_uniform(), out=256), 0.3)
    mean, stderr = sampled(net, 512)
    agree(sp.propagate(net, X, backward=False).second_moment.values[-1:], Sample(np.array([mean]), np.array([stderr]), 511), detects=0.06)


def test_one_threshold_for_all_layers():
    """Wider layers have smaller He weights, and lose more of them."""
    model = nn.Sequential([nn.Dense(512, kernel_init=HE), nn.relu, nn.Dense(64, kernel_init=HE), nn.relu, nn.Dense(10, kernel_init=HE)])
    net = sp.network(model, X)
    found = sparse.global_shares(net, 0.2)
    sizes = {path: int(np.prod(net.laws.shapes[path])) for path in found}
    assert sum(sizes[p] * s.kept for p, s in found.items()) / sum(sizes.values()) == pytest.approx(0.2, rel=1e-6)
    assert len({round(s.threshold, 9) for s in found.values()}) == 1
    assert found["layers_0/kernel"].kept > found["layers_2/kernel"].kept
    params = net.init(jax.random.key(5))
    measured = sparse.kept_shares(params, sparse.mask(sparse.magnitude(net, params), 0.2, "global"))
    for path, (p, effective) in measured.items():
        assert p == pytest.approx(found[path].kept, abs=5 * sqrt(0.25 / sizes[path]))
        assert effective == pytest.approx(found[path].variance, abs=5 * sqrt(0.5 / sizes[path]))
    thin = sparse.thresholded(net, 0.2, "global")
    np.testing.assert_allclose(factors(thin)[0], found["layers_2/kernel"].variance, rtol=0.02)


def test_blocks_keep_n_of_m():
    net = perceptron(2, 64)
    masks = sparse.mask(sparse.blocks(sparse.magnitude(net, net.init(jax.random.key(0))), 4), 0.5)
    for m in masks.values():
        assert np.all(np.asarray(m).reshape(-1, 4, m.shape[-1]).sum(axis=1) == 2)


def test_tiles_are_kept_whole():
    """Random squares of 8 by 8: the same share of the variance as of the weights, and kept flat by the correction."""
    net, kept = perceptron(3), 0.25
    hidden = sparse.prunable(net)[:-1]  # the last has ten units
    masks = sparse.mask(sparse.tiles(sparse.random(net, jax.random.key(1), hidden), (8, 8)), kept)
    for m in masks.values():
        squares = np.asarray(m).reshape(m.shape[0] // 8, 8, m.shape[1] // 8, 8).mean((1, 3))
        assert set(np.unique(squares)) == {0, 1} and squares.mean() == kept
    net = sparse.masked(sparse.corrected(net, dict.fromkeys(masks, kept)), masks)
    np.testing.assert_allclose(factors(net)[0], 1, rtol=0.03)  # of the 64 rows of squares that a unit has, some keep more


@pytest.mark.slow
def test_kernels_of_masked_networks(width=128, seeds=1024):
    """NNGP and NTK with the same masks in all draws, in units of their diagonals: false alarm 1e-6, detects 15 %."""
    net = perceptron(2, width, out=32)
    net = sparse.masked(net, sparse.mask(sparse.random(net, jax.random.key(3)), 0.3))
    limit, one = sp.infinite_kernel(net)(X), sp.empirical_kernel(net)
    drawn = jax.lax.map(lambda key: one(net.init(key), X)[:2], jax.random.split(jax.random.key(4), seeds))
    for expected, found in zip((limit.nngp, limit.ntk), drawn, strict=True):
        size = np.sqrt(np.diag(expected))
        agree(np.asarray(expected), sample(found), scale=size[:, None] * size, detects=0.15, allowance=0.03)


def test_scores_of_losses():
    """SNIP is the derivative of the loss by a factor of each weight, GraSP that of half the squared gradient, here by differences."""
    net = perceptron(1, 16)
    params, labels = net.init(jax.random.key(0)), digit_labels()[:4]
    loss = lambda p: CLASS_LOSS(net.apply(p, X), labels)  # noqa: E731
    slope = jax.grad(loss)
    tree = jax.tree.structure(params)
    places = [i for i, leaf in enumerate(jax.tree.leaves(params)) if leaf.ndim > 1]
    kernels = list(sparse.prunable(net))
    snip, grasp = sparse.snip(net, CLASS_LOSS, params, X, labels), sparse.grasp(net, CLASS_LOSS, params, X, labels)
    leaves, slopes = jax.tree.leaves(params), jax.tree.leaves(slope(params))
    energy = lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(slope(p))) / 2  # noqa: E731
    curved = jax.tree.leaves(jax.grad(energy)(params))
    for place, path in zip(places, kernels, strict=True):
        np.testing.assert_allclose(snip[path], abs(leaves[place] * slopes[place]), rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(grasp[path], leaves[place] * curved[place], rtol=1e-3, atol=1e-6)
    assert tree == jax.tree.structure(params)


def trainer(net, x, labels, rate=3e-3, batch=64):
    """Adam on minibatches that are the same for the same step."""
    optimizer = optax.adam(rate)

    @partial(jax.jit, static_argnums=(2, 3))
    def train(params, masks, first, last):
        thin = sparse_apply(net, masks)

        def step(state, k):
            p, moments = state
            chosen = jax.random.choice(jax.random.fold_in(jax.random.key(7), k), len(x), (batch,), replace=False)
            slope = jax.grad(lambda q: CLASS_LOSS(thin(q, x[chosen]), labels[chosen]))(p)
            updates, moments = optimizer.update(slope, moments, p)
            return (optax.apply_updates(p, updates), moments), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(first, last))[0][0]

    return train


def sparse_apply(net, masks):
    """With masks that are traced."""
    from sigprop.network import parameter_paths

    def apply(params, x):
        leaves, tree = jax.tree.flatten(params)
        paths = parameter_paths(params)
        return net.apply(jax.tree.unflatten(tree, [w * masks[p] if p in masks else w for p, w in zip(paths, leaves, strict=True)]), x)

    return apply


def accuracy(net, ticket, x, labels):
    return float(jnp.mean(jnp.argmax(sparse_apply(net, ticket.masks)(ticket.trained, x), -1) == labels))


@pytest.mark.slow
def test_winning_tickets_on_digits():
    """Digits, 3 % of the weights left after 16 rounds: rewound weights beat the same masks on other weights, in the mean of three seeds."""
    x, labels = jnp.asarray(load("digits", 1797, None, 2)), jnp.asarray(digit_labels()[:1797])
    net = perceptron(2, 128)
    train = trainer(net, x[:1400], labels[:1400])
    gaps, last = [], []
    for seed in range(3):
        params = net.init(jax.random.key(seed))
        *_, ticket = sparse.iterative_magnitude_pruning(net, train, params, 16, steps=300, rewind=20)
        assert ticket.kept == pytest.approx(0.8**16, rel=0.02)
        other = net.init(jax.random.key(100 + seed))
        again = sparse.Ticket(16, ticket.masks, other, train(other, ticket.masks, 0, 300))
        gaps.append(accuracy(net, ticket, x[1400:], labels[1400:]) - accuracy(net, again, x[1400:], labels[1400:]))
        last.append(accuracy(net, ticket, x[1400:], labels[1400:]))
    print("accuracy", last, "above other weights by", gaps)
    assert np.mean(gaps) > 0 and min(last) > 0.85


def test_pruning_is_resumed_where_it_was_left():
    x, labels = jnp.asarray(load("digits", 64, None, 2)), jnp.asarray(digit_labels()[:64])
    net = perceptron(1, 16)
    train, params = trainer(net, x, labels, batch=16), net.init(jax.random.key(0))
    run = partial(sparse.iterative_magnitude_pruning, net, train, params, 3, steps=20, rewind=5, fraction=0.5, scope="layer")
    whole = list(run())
    assert [round(t.kept, 2) for t in whole] == [1.0, 0.5, 0.25, 0.12] or whole[-1].kept == pytest.approx(0.125, abs=0.01)
    again = list(run(resume=whole[1]))
    assert [t.round for t in again] == [2, 3]
    for one, two in zip(jax.tree.leaves(whole[-1].trained), jax.tree.leaves(again[-1].trained), strict=True):
        np.testing.assert_array_equal(one, two)
    for path, m in whole[-1].masks.items():
        assert not np.any(np.asarray(m) & ~np.asarray(whole[1].masks[path]))  # what is left out stays out


BAD = {
    "kept: 0 given": lambda net: sparse.share(sp.Law(0, 1), 0),
    "kept: 1.5 given": lambda net: sparse.mask({"a": np.ones(3)}, 1.5),
    "mean 1 and variance 1": lambda net: sparse.share(sp.Law(1, 1), 0.5),
    "the family 'orthogonal' has no quantiles": lambda net: sparse.share(sp.Law(0, 1, "orthogonal"), 0.5),
    "scores: not finite at ['a']": lambda net: sparse.mask({"a": np.array([1, np.nan])}, 0.5),
    "scope: 'all' is none of": lambda net: sparse.mask({"a": np.ones(3)}, 0.5, "all"),
    "'a' would be empty": lambda net: sparse.mask({"a": np.zeros(10), "b": np.ones(10)}, 0.5, "global"),
    "is no parameter of": lambda net: sparse.masked(net, {"nothing": np.ones((2, 2))}),
    "it must be that of the parameter, (16, 10)": lambda net: sparse.masked(net, {"layers/2/kernel": np.ones((2, 2))}),
    "entries other than 0 and 1": lambda net: sparse.masked(net, {"layers/2/kernel": np.full((16, 10), 2)}),
    "'layers/2/kernel' would be empty": lambda net: sparse.masked(net, {"layers/2/kernel": np.zeros((16, 10))}),
    "are no kernels of": lambda net: sparse.prunable(net, ["layers/2/bias"]),
    "must be above 0 and at most 1": lambda net: sparse.corrected(net, {"layers/2/kernel": 0.0}),
    "size: 7 does not divide the 64 inputs": lambda net: sparse.blocks(sparse.magnitude(net, net.init(jax.random.key(0))), 7),
    "shape: (7, 1) does not divide the 64 inputs and 16 units": lambda net: sparse.tiles(
        sparse.magnitude(net, net.init(jax.random.key(0))), (7, 1)),
    "rewind: 30 given": lambda net: next(sparse.iterative_magnitude_pruning(net, None, None, 1, steps=20, rewind=30)),
    "fraction: 1 leaves no weight": lambda net: next(sparse.iterative_magnitude_pruning(net, None, None, 1, fraction=1)),
    "empties ['layers_2/kernel']": lambda net: sparse.global_shares(
        sp.network(nn.Sequential([nn.Dense(16, kernel_init=normal(1.0)), nn.relu, nn.Dense(10, kernel_init=normal(1e-12))]), X), 0.5),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(sp.InvalidInput) as error:
        BAD[message](perceptron(1, 16, he_normal() if "laplace" in message else glorot_normal()))
    assert message in str(error.value)
