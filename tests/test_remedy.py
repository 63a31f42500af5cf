"""Remedies: predicted gains against recursions by quadrature, and against the variances of networks drawn with them."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from remedy_models import CASES, autoencoder, resnet, trainer
from scipy import stats

import sigprop as sp
from sigprop.empirical import weights
from sigprop.predict.branches import branch_ends

X = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
TOKENS = np.arange(10, dtype=np.int32).reshape(2, 5)
FALSE_ALARM = 1e-6
SMALL = {"U-Net, LeCun": {"widths": (8, 16), "convolutions": 2}, "tanh, 100 layers, He": {"depth": 20},
         "autoencoder, 40 layers, N(0, 0.01²)": {"width": 48},
         "ResNet without norm, He": {"blocks": 6}, "post-norm transformer, Xavier": {"layers": 1}}
FULL = {name: {"layers": 4} if "transformer" in name else {} for name in CASES}
WIDTHS = (64, 48, 96, 64, 10)
NODES, MASS = np.polynomial.hermite_e.hermegauss(100)
MASS = MASS / MASS.sum()


FAST = "autoencoder, 40 layers, N(0, 0.01²)"
SIZES = [pytest.param(name, sizes, id=f"{name}-{size}", marks=[pytest.mark.slow] if size == "full" or name != FAST else [])
         for name in CASES for size, sizes in (("small", SMALL), ("full", FULL))]


@pytest.mark.parametrize(("name", "sizes"), SIZES)
def test_every_layer_has_the_variance_that_was_asked_for(name, sizes):
    """Predicted within 1 %; measured within noise and the report's allowance for finite width, 2/fan-in for each layer passed."""
    net = CASES[name].network(2, **sizes[name])
    remedy = sp.remedy(net)
    before, after, aim = (np.array([f(layer) for layer in remedy.layers]) for f in (
        lambda layer: 10**layer.log10_before, lambda layer: 10**layer.log10_after, lambda layer: layer.aim))
    assert np.max(abs(before / aim - 1)) > 0.3
    np.testing.assert_allclose(after, aim, rtol=0.01)
    found = remedy.measured(seeds=64, key=jax.random.key(1))
    fans = np.array([net.laws.fan_in[layer.name] for layer in remedy.layers])
    ratio = np.log(found.measured.values / found.predicted.values)
    noise = stats.t.isf(FALSE_ALARM / len(ratio) / 2, 15) * found.measured_stderr.values / found.measured.values
    assert np.all(abs(ratio) <= noise + 2 * np.cumsum(1 / fans)), (ratio, noise)


def chain(activation, widths=WIDTHS):
    start = sp.init.Normal(0.02)
    layers = [layer for w in widths[1:-1] for layer in (nn.Dense(w, kernel_init=start), activation)]
    return nn.Sequential([*layers, nn.Dense(widths[-1], kernel_init=start)])


ONE = np.random.default_rng(1).standard_normal((1, WIDTHS[0])).astype(np.float32)  # of several, each has a variance of its own


@pytest.mark.parametrize("activation", [nn.tanh, nn.gelu, nn.softplus])
@pytest.mark.parametrize("target", ["forward", "critical", "backward", "mean"])
def test_gains_of_a_chain_are_those_of_the_recursion(target, activation):
    """One-dimensional integrals by Gauss-Hermite, layer by layer."""
    remedy = sp.remedy(sp.network(chain(activation), ONE), target=target, variance=0.7)
    slope = jax.vmap(jax.grad(activation))
    size, wanted = float(np.mean(ONE.astype(np.float64) ** 2)), []
    q, pairs = None, list(zip(WIDTHS[:-1], WIDTHS[1:], strict=True))
    with jax.enable_x64(True):
        for k, (n, m) in enumerate(pairs):
            z = jnp.asarray(NODES) * (q or 0.0) ** 0.5
            size = float(MASS @ np.asarray(activation(z)) ** 2) if k else size
            steep = float(MASS @ np.asarray(slope(z)) ** 2)
            forward = 0.7 / size / n  # variances of a weight that keep the one and the other
            backward = {"critical": 1 / steep / n}.get(target, 1 / steep / m)
            local = {"forward": forward, "mean": (q or 1) ** 0.5 * (forward / 0.7 * backward) ** 0.5}.get(target, backward)
            wanted.append(local if 0 < k < len(pairs) - 1 else forward)
            q = wanted[-1] * n * size
    found = [remedy.laws[f"layers_{2 * k}/kernel"].variance for k in range(len(pairs))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_backward_gains_keep_the_gradient():
    """Predicted as propagate does it, by the backward pass, which the gains were not found by."""
    remedy = sp.remedy(sp.network(chain(nn.relu, (64, 48, 96, 32, 64, 10)), ONE), target="backward")
    found = [10**after for _, after in remedy.gradients.values()]
    assert np.all(np.isfinite(found))
    np.testing.assert_allclose(found[:-1], found[0], rtol=1e-5)
    measured = sp.measure(remedy.network, ONE, seeds=512)
    for layer, predicted in zip(list(remedy.gradients)[:-1], found, strict=False):
        row = measured.sel(node=layer.removesuffix("/kernel"))
        allowed = stats.t.isf(FALSE_ALARM / 2, 127) * float(row.grad_variance_stderr) + 2 * predicted * sum(2 / w for w in (48, 96, 32, 64))
        assert abs(float(row.grad_variance) - predicted) < allowed


def dense(key, *sizes):
    return [jax.random.normal(jax.random.fold_in(key, k), (n, n)) / n**0.5 for k, n in enumerate(sizes)]


BLOCKS = {  # a sum: the function, and how often each of the weights a, b, c ends a branch
    "identity": (lambda a, b, c, x: (h := x @ c) + nn.relu(h @ a) @ b, [0, 1, 0]),
    "one weight": (lambda a, b, c, x: (h := nn.relu(x @ a)) + nn.relu(h) @ b + h.sum() * c[0, 0], [0, 1]),
    "projection": (lambda a, b, c, x: x @ c + 0.3 * (nn.relu(x @ a) @ b), [0, 1, 0]),
    "two branches": (lambda a, b, c, x: (h := nn.relu(x @ a)) + (nn.relu(h) @ b + nn.tanh(h) @ c), [0, 1, 1]),
    "one after the other": (lambda a, b, c, x: ((h := nn.relu(x @ a)) + nn.relu(h) @ b) + nn.tanh(h) @ c, [0, 1, 1]),
    "two products": (lambda a, b, c, x: nn.relu(x @ a + x @ b) @ c, [0, 0, 0]),
    "activated branch": (lambda a, b, c, x: (h := x @ c) + nn.relu(h @ a) + b[0], [0, 0]),
    "shared": (lambda a, b, c, x: (g := (h := x @ c) + nn.relu(h @ a) @ b) + nn.relu(g @ a) @ b, [0, 2, 0]),
    "recurrence": (lambda a, b, c, x: nn.tanh(x @ a + nn.tanh(x @ a) @ b) @ c, [0, 0, 0]),
    "gelu": (lambda a, b, c, x: nn.gelu(nn.gelu(x @ a) @ b) @ c, [0, 0, 0]),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_branches_are_found(name):
    block, expected = BLOCKS[name]
    net = sp.network(lambda p, x: block(*p, x), X, init=lambda key: dense(key, 32, 32, 32))
    graph = net.graph(X)
    found = sorted(weights(graph, 3), key=lambda site: site.leaf)
    ends = branch_ends(graph, 3, {use.output: k for k, site in enumerate(found) for use in site.uses})
    assert [ends[k] for k in range(len(found))] == expected


@pytest.mark.parametrize("growth", [1.0, 0.25])
def test_a_stream_grows_by_what_all_branches_add(growth):
    net = sp.network(partial(resnet, blocks=6), CASES["ResNet without norm, He"].x[:2])
    remedy = sp.remedy(net, growth=growth)
    assert [layer.aim for layer in remedy.layers if layer.branch] == [growth / 6] * 6
    after = sp.propagate(remedy.network, *remedy.x, backward=False)
    stream = after.variance.values[[str(node).startswith("blocks/") and op == "add" for node, op in
                                    zip(after.node.values, after.op.values, strict=True)]]
    np.testing.assert_allclose(stream, 1 + growth * np.arange(1, 7) / 6, rtol=0.01)


class Stacked(nnx.Module):
    """Four layers stored in one parameter."""

    def __init__(self, rngs):
        stack = nnx.split_rngs(splits=4)(nnx.vmap(lambda rngs: nnx.Linear(32, 32, kernel_init=sp.init.Normal(2.0), rngs=rngs)))
        self.layers = stack(rngs)

    def __call__(self, x):
        return nnx.scan(lambda x, layer: nnx.relu(layer(x)), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.layers)


def test_layers_of_a_stack_have_their_own_gains():
    remedy = sp.remedy(sp.network(Stacked, X))
    (gain,) = remedy.gains.values()
    size = float(np.mean(X.astype(np.float64) ** 2))
    assert gain.shape == (4, 1, 1) and [layer.name for layer in remedy.layers] == [f"layers/kernel[{k}]" for k in range(4)]
    np.testing.assert_allclose(gain.ravel() ** 2 * 64, [1 / size, 2, 2, 2], rtol=1e-5)
    assert not remedy.initializers and "times gain" in str(remedy)


def test_recurrent_weights_have_the_variance_at_their_first_use():
    model = nn.RNN(nn.SimpleCell(32), time_major=False)
    x = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    remedy = sp.remedy(sp.network(model, x))
    assert {layer.name.split("/")[-2] for layer in remedy.layers} == {"i", "h"}
    np.testing.assert_allclose([10**layer.log10_after for layer in remedy.layers], 1, rtol=1e-4)


@pytest.mark.parametrize("start", [sp.init.Normal(0.3), sp.init.Normal(0.3, 0.1), sp.init.TruncatedNormal(0.3), sp.init.Uniform(0.3),
                                   sp.init.Orthogonal(3.0)], ids=lambda start: type(start).__name__)
def test_initializers_can_be_pasted(start):
    """The text of the table makes what has the law of the rescaled weight, and so does the callable."""
    remedy = sp.remedy(sp.network(nn.Sequential([nn.Dense(48, kernel_init=start), nn.tanh, nn.Dense(24, kernel_init=start)]), X))
    for path, made in remedy.initializers.items():
        text = next(line for line in str(remedy).splitlines() if line.startswith(path))
        law = remedy.laws[path]
        for one in (made, eval("sp.init." + text.split("sp.init.")[1])):
            stated = one.law(remedy.laws.shapes[path])
            assert stated.family == law.family
            np.testing.assert_allclose([stated.mean, stated.variance], [law.mean, law.variance], rtol=1e-5)
    model = nn.Sequential([nn.Dense(48, kernel_init=remedy.initializers["layers_0/kernel"]), nn.tanh,
                           nn.Dense(24, kernel_init=remedy.initializers["layers_2/kernel"])])
    np.testing.assert_allclose([layer.gain for layer in sp.remedy(sp.network(model, X)).layers], 1, rtol=1e-5)


def test_parameters_are_those_of_the_network_times_their_gains():
    net = sp.network(nn.Sequential([nn.Embed(10, 16), nn.Dense(8, bias_init=sp.init.Normal(1.0)), nn.relu, nn.Dense(3)]), TOKENS)
    remedy = sp.remedy(net, keep=["layers_3/kernel"])
    assert list(remedy.gains) == ["layers_1/kernel"]
    keys = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(jax.vmap(remedy.params))(keys)
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(net.init(keys[1])), jax.tree.leaves(mapped), strict=True):
        if not jnp.issubdtype(old.dtype, jnp.floating):
            continue
        gain = remedy.gains["layers_1/kernel"] if "layers_1" in str(path) and "kernel" in str(path) else 1.0
        np.testing.assert_allclose(new[1], gain * old, rtol=1e-5)


def test_it_starts_from_what_integers_look_up():
    net = sp.network(nn.Sequential([nn.Embed(10, 32), nn.Dense(32), nn.tanh, nn.Dense(32), nn.tanh, nn.Dense(3)]), TOKENS)
    found = {layer.name: 10**layer.log10_after for layer in sp.remedy(net, target="critical").layers}
    assert found["layers_1/kernel"] != pytest.approx(1, rel=1e-3) or found["layers_3/kernel"] < 0.95


def test_declared_and_measured_laws_are_rescaled():
    params = {"a": 3 * X[:, :8].repeat(8, 0), "b": np.ones((8, 4), np.float32)}
    net = sp.network(lambda p, x: nn.relu(x @ p["a"]) @ p["b"], X, params=params, laws={"b": sp.Law(0.0, 2.0)})
    remedy = sp.remedy(net)
    np.testing.assert_allclose([10**layer.log10_after for layer in remedy.layers], 1, rtol=1e-6)
    assert remedy.laws["b"].variance == pytest.approx(2 * remedy.gains["b"] ** 2)
    assert remedy.laws["a"].variance == pytest.approx(net.laws["a"].variance * remedy.gains["a"] ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_that_failed_succeeds(name):
    """The same model, optimizer, learning rate and minibatches; only the size of the initial weights differs."""
    case = CASES[name]
    net = case.network()
    train = trainer(net, case)
    old, new = (train(start(jax.random.key(0)))[-1] for start in (net.init, sp.remedy(net, target=case.target).params))
    assert not old < 0.95 * case.chance and new < 0.8 * case.chance


NET = sp.network(chain(nn.relu), ONE)
HEAD = sp.network(nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3, kernel_init=sp.init.Constant(0.0))]), X)
DEAD = sp.network(nn.Sequential([nn.Dense(8, kernel_init=sp.init.Constant(0.0)), nn.Dense(3)]), X)
STEP = sp.network(nn.Sequential([nn.Dense(8), jnp.sign, nn.Dense(8), nn.relu, nn.Dense(3)]), X)
BARE = sp.network(lambda p, x: x * p["scale"], X, init=lambda key: {"scale": jax.random.normal(key, (32,))})
BAD = {
    "not a network": (lambda: sp.remedy(X), "^net: ndarray is not a network"),
    "no inputs": (lambda: sp.remedy(sp.network(partial(autoencoder, width=8))), r"^x: .* give example inputs, remedy\(net, x\)"),
    "unknown target": (lambda: sp.remedy(NET, target="unit"), "^target: 'unit' is none of 'forward', 'backward', 'mean', 'critical'"),
    "number as target": (lambda: sp.remedy(NET, target=-1.0), r"^target: -1.0 is none of .*; a number goes into variance="),
    "negative variance": (lambda: sp.remedy(NET, variance=-1.0), "^variance: -1.0 given; it must be above 0"),
    "infinite variance": (lambda: sp.remedy(NET, variance=np.inf), "^variance: inf is not a finite real number"),
    "no growth": (lambda: sp.remedy(NET, growth=0.0), "^growth: 0.0 given; it must be above 0"),
    "NaN": (lambda: sp.remedy(NET, ONE * np.nan), r"^x\[0\]: has NaN or infinite entries"),
    "traced": (lambda: jax.jit(lambda x: sp.remedy(NET, x).layers[0].gain)(ONE), "^x: traced by jax; find the remedy outside of jit"),
    "kept": (lambda: sp.remedy(NET, keep=["head"]), r"^keep: there is no parameter 'head'; the weights are \['layers_0/kernel'"),
    "no weights": (lambda: sp.remedy(BARE), "^net: no weight of .* is multiplied with the signal directly"),
    "all kept": (lambda: sp.remedy(HEAD, keep=["layers_0/kernel", "layers_2/kernel"]), "and is not kept, so that there is nothing"),
    "zero head": (lambda: sp.remedy(HEAD), r"cannot be met at 'layers_2/kernel': it starts at 0.*keep=\['layers_2/kernel'\]"),
    "after zeros": (lambda: sp.remedy(DEAD, keep="layers_0/kernel"), "at 'layers_1/kernel': nothing that varies reaches it"),
    "no derivative": (lambda: sp.remedy(STEP, target="critical"), "at 'layers_2/kernel': no perturbation of the inputs passes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()


def test_a_zero_head_may_stay():
    remedy = sp.remedy(HEAD, keep="layers_2/kernel")
    assert list(remedy.gains) == ["layers_0/kernel"] and not np.any(remedy.network.apply(remedy.params(jax.random.key(0)), X))
