"""Kernels of finite width against the contraction of ``jax.jacrev``'s own Jacobians, in float64."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import lineax as lx
import matfree.decomp
import matfree.stochtrace
import numpy as np
import pytest
from flax import nnx

import sigprop as sp
from sigprop.empirical.engine import Setting, kernels, prepare

KEY = jax.random.key(0)
METHODS = ("auto", "jacobian", "structured", "products")


class Cnn(nn.Module):
    """Stride, padding of both kinds, dilation, groups, depthwise filters and average pooling."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 2), strides=(2, 1), padding=((2, 0), (1, 1)))(x))
        x = nn.relu(nn.Conv(6, (3, 3), feature_group_count=6, use_bias=False)(x))
        x = nn.gelu(nn.Conv(8, (2, 2), kernel_dilation=2, feature_group_count=2)(x))
        x = nn.avg_pool(x, (2, 2), (1, 2), "SAME")
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Upsampling(nn.Module):
    """Outputs with a site axis."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(2, (3,))(nn.relu(nn.ConvTranspose(4, (3,), strides=(2,))(x)))


class PreNorm(nn.Module):
    width: int = 6

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        for _ in range(2):
            x = x + nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x))))
        return nn.Dense(2)(x)


class Attention(nn.Module):
    """Multi-head layouts, products of activations, a table of tokens, a table of positions."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8)(tokens) + self.param("position", nn.initializers.normal(1.0), (tokens.shape[1], 8))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(x)
        return nn.DenseGeneral((2,), axis=(-2, -1))(x)


class Scanned(nn.Module):
    """Stacked weights, a slice to each step."""

    @nn.compact
    def __call__(self, x):
        block = nn.scan(lambda layer, x, _: (nn.tanh(layer(x)), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(2)(block(nn.Dense(x.shape[-1]), x, None)[0])


class Statistics(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))))


def recurrent(params, x):
    """One weight at each step."""
    h = jnp.zeros((x.shape[0], 4), x.dtype)
    for step in range(x.shape[1]):
        h = jnp.tanh(x[:, step] @ params["in"] + h @ params["again"] + params["bias"])
    return h @ params["out"]


def tied(params, tokens):
    """A table that is looked up and transposed; another that is contracted in two ways."""
    h = jnp.tanh(params["table"][tokens].mean(1) @ params["square"])
    return (h @ params["square"].T) @ params["table"].T


def scaled(params, x):
    """The NTK parameterization, two parameters multiplied, one that is not used, slices, a convolution over one axis."""
    h = jnp.tanh(x @ (params["in"] * (2.0 / x.shape[-1]) ** 0.5) / params["temperature"])
    left, right = h @ params["both"][:, :3], h @ params["both"][:, 3:]
    return jnp.einsum("nk,jk->nj", left * right, params["low"] @ params["rank"])


def straight_through(params, x):
    """A derivative of its own."""
    z = x @ params["in"]
    return (z + jax.lax.stop_gradient(jnp.sign(z) - z)) @ params["out"]


def residual(params, x):
    """A derivative by the input, so that weights are used in two programs."""
    return jax.jvp(lambda x: jnp.tanh(x @ params["in"]) @ params["out"], (x,), (jnp.ones_like(x),))[1]


def normal(**shapes):
    return lambda key: {name: jax.random.normal(jax.random.fold_in(key, k), shape) for k, (name, shape) in enumerate(shapes.items())}


class NnxMixed(nnx.Module):
    """Parameters beside keys, counters and statistics of batches."""

    def __init__(self, rngs):
        self.first, self.norm, self.dropout = nnx.Linear(5, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Einsum("abc,cde->abde", (4, 2, 3), (2, 3), rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(nnx.relu(self.norm(self.first(x))))[:, None])


MLP = nn.Sequential([nn.Dense(7), nn.relu, nn.Dense(6), nn.tanh, nn.Dense(3)])
MODELS = {  # model, shape of an example (the number of tokens where they are integers), initializer of a function
    "mlp": (MLP, (5,), None),
    "cnn": (Cnn(), (6, 7, 2), None),
    "sites": (Upsampling(), (3, 2), None),
    "pre-norm": (PreNorm(), (5,), None),
    "attention": (Attention(), 4, None),
    "scan": (Scanned(), (4,), None),
    "running statistics": (Statistics(), (5,), None),
    "nnx": (NnxMixed, (5,), None),
    "recurrent": (recurrent, (3, 2), normal(**{"in": (2, 4), "again": (4, 4), "bias": (4,), "out": (4, 2)})),
    "tied": (tied, 4, normal(table=(11, 3), square=(3, 3))),
    "scaled": (scaled, (5,), normal(**{"in": (5, 4), "temperature": (), "both": (4, 6), "low": (2, 2), "rank": (2, 3), "idle": (3,)})),
    "straight through": (straight_through, (5,), normal(**{"in": (5, 4), "out": (4, 2)})),
    "residual of an equation": (residual, (3,), normal(**{"in": (3, 4), "out": (4, 2)})),
}


def is_floating(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def inputs(shape, count, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 11, (count, shape)) if isinstance(shape, int) else rng.standard_normal((count, *shape))


def made(name):
    """The network, float64 parameters, and two sets of inputs."""
    model, shape, init = MODELS[name]
    x1, x2 = inputs(shape, 5, 1), inputs(shape, 3, 2)
    net = sp.network(model, x1, init=init) if init else sp.network(model, x1)
    return net, jax.tree.map(lambda a: a + 0.1 * jax.random.normal(KEY, a.shape) if is_floating(a) else a, net.init(KEY)), x1, x2


def reference(net, params, x1, x2, full, fixed=("batch_stats", "mean", "var")):
    """NNGP and NTK from ``jax.jacrev`` by the leaves that have tangents."""
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value").split("/") for path, _ in flat]
    moving = [k for k, (_, leaf) in enumerate(flat) if jnp.issubdtype(leaf.dtype, jnp.floating) and not set(fixed) & set(names[k])]

    def outputs(moved, x):
        leaves = [leaf for _, leaf in flat]
        for k, value in zip(moving, moved, strict=True):
            leaves[k] = value
        return net.apply(jax.tree.unflatten(tree, leaves), x)

    at = [flat[k][1] for k in moving]
    y1, y2 = (outputs(at, x)[..., None] for x in (x1, x2))
    jacobians = [[j.reshape(*y.shape[:-1], -1) for j in jax.jacrev(outputs)(at, x)] for x, y in ((x1, y1), (x2, y2))]
    sites = "abcd"[: y1.ndim - 3]
    rule = f"n{sites}fp,m{sites.upper()}{'F' if full else 'f'}p->nm{sites}{'f' if full else ''}{sites.upper()}{'F' if full else ''}"
    scale = 1 if full else y1.shape[-2]
    return jnp.einsum(rule, y1, y2) / scale, sum(jnp.einsum(rule, a, b) / scale for a, b in zip(*jacobians, strict=True))


COSTLY = ("cnn", "pre-norm", "attention")


@pytest.mark.parametrize(("name", "outputs", "methods"), [
    *((name, "trace", METHODS) for name in MODELS if name not in COSTLY), ("sites", "full", ("auto",)),
    *(pytest.param(name, "trace", METHODS, marks=pytest.mark.slow) for name in COSTLY),
    *(pytest.param(name, "full", METHODS, marks=pytest.mark.slow) for name in ("cnn", "sites"))])
def test_equals_contracted_jacobians(name, outputs, methods):
    with jax.enable_x64(True):
        net, params, x1, x2 = made(name)
        nngp, ntk = jax.jit(lambda p, x1, x2: reference(net, p, x1, x2, outputs == "full"))(params, x1, x2)
        for method in methods:
            found = sp.empirical_kernel(net, outputs=outputs, method=method)(params, x1, x2)
            assert found.ntk.shape == ntk.shape and found.ntk.dtype == jnp.float64
            np.testing.assert_allclose(found.nngp, nngp, atol=1e-10 * abs(nngp).max(), err_msg=method)
            np.testing.assert_allclose(found.ntk, ntk, atol=1e-10 * abs(ntk).max(), err_msg=method)
            assert found.error < 1e-12 * abs(ntk).max() + 1e-12 * abs(nngp).max()
        own = sp.empirical_kernel(net, outputs=outputs)(params, x1).ntk
        wanted = sp.empirical_kernel(net, outputs=outputs)(params, x1, x1).ntk
        np.testing.assert_allclose(own, wanted, atol=1e-12 * abs(wanted).max())


STRUCTURED = {  # parameters that keep their products
    "mlp": "layers_0/kernel layers_2/kernel layers_4/kernel", "cnn": "Conv_0/kernel Conv_1/kernel Conv_2/kernel Dense_0/kernel",
    "attention": "embedding query/kernel key/kernel value/kernel out/kernel DenseGeneral_0/kernel", "scan": "Dense_0/kernel Dense_1/kernel",
    "recurrent": "in again out", "tied": "", "scaled": "in both low rank", "nnx": "first/kernel last/kernel",
    "residual of an equation": "in out",
}


@pytest.mark.parametrize("name", STRUCTURED)
def test_weights_keep_their_products(name):
    net, params, x1, _ = made(name)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    setting = Setting(net.apply, tuple(k for k, (_, a) in enumerate(leaves) if is_floating(a)), "trace", 1e9, "structured")
    found = prepare(setting, params, (jnp.asarray(x1),), None).plan.ways
    paths = [jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value") for path, _ in leaves]
    names = {paths[k] for k, way in found.items() if way == "outer"}
    wanted = STRUCTURED[name].split()
    assert len(names) == len(wanted) and all(any(n.endswith(w) for n in names) for w in wanted), names


@pytest.mark.parametrize(("name", "method"), [
    ("mlp", "structured"), *(pytest.param(name, method, marks=pytest.mark.slow) for name in ("attention", "cnn") for method in METHODS)])
def test_memory_cap(name, method):
    """Parts give the same numbers, and XLA's own account of the temporary memory stays below the cap."""
    with jax.enable_x64(True):
        net, params, _, _ = made(name)
        x1, x2 = (jnp.asarray(inputs(MODELS[name][1], count, count)) for count in (37, 23))
        pairs = (((x1,), (x2,)), ((x1,), None))
        whole = [sp.empirical_ntk(net.apply, params, x1, None if two is None else x2, method=method) for _, two in pairs]
        chosen = tuple(k for k, leaf in enumerate(jax.tree.leaves(params)) if is_floating(leaf))
        cap = 1e6
        setting = Setting(net.apply, chosen, "trace", cap, method)
        run = jax.jit(lambda p, a, b, s=setting: kernels(s, p, a, b, [1.0] * len(jax.tree.leaves(p))))
        for pair, wanted in zip(pairs, whole, strict=True):
            compiled = run.lower(params, *pair).compile()
            assert compiled.memory_analysis().temp_size_in_bytes < cap
            np.testing.assert_allclose(compiled(params, *pair)[1], wanted, atol=1e-12 * abs(wanted).max())


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cnn", "pre-norm"))])
def test_float32(name):
    net, params, x1, x2 = made(name)
    x1, x2 = np.float32(x1), np.float32(x2)
    nngp, ntk = reference(net, params, x1, x2, False)
    found = sp.empirical_kernel(net)(params, x1, x2)
    assert found.ntk.dtype == found.nngp.dtype == jnp.float32
    np.testing.assert_allclose(found.ntk, ntk, atol=1e-5 * abs(ntk).max())
    np.testing.assert_allclose(found.nngp, nngp, atol=1e-5 * abs(nngp).max())


@pytest.mark.parametrize("memory", [1e9, 1e5])
def test_jit_and_vmap(memory):
    net, params, x1, x2 = made("cnn")
    x1, x2 = jnp.float32(x1), jnp.float32(x2)
    kernel = sp.empirical_kernel(net, memory=memory)
    single = kernel(params, x1, x2).ntk
    np.testing.assert_allclose(jax.jit(kernel)(params, x1, x2).ntk, single, rtol=1e-5)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), params)
    np.testing.assert_allclose(jax.vmap(kernel, (0, None, None))(stacked, x1, x2).ntk[1], single, rtol=1e-5)


def test_parameterization_and_rates():
    with jax.enable_x64(True):
        net, params, x1, _ = made("mlp")
        parts = {}
        for path in net.laws:
            rates = {name: float(name == path) for name in net.laws}
            parts[path] = sp.empirical_kernel(net, learning_rates=nested(rates))(params, x1).ntk
        ntk = sp.empirical_kernel(net, parameterization="ntk", learning_rates=nested({"layers_0/kernel": 3.0}))(params, x1).ntk
        wanted = sum(law.variance * (3 if path == "layers_0/kernel" else 1) * parts[path] for path, law in net.laws.items())
        np.testing.assert_allclose(ntk, wanted, rtol=1e-12)
        traced = jax.jit(lambda rate: sp.empirical_kernel(net, learning_rates={"layers_0": {"kernel": rate}})(params, x1).ntk)
        np.testing.assert_allclose(traced(0.0), sum(part for path, part in parts.items() if path != "layers_0/kernel"), rtol=1e-12)


def nested(flat):
    tree = {}
    for path, value in flat.items():
        outer, inner = path.split("/")
        tree.setdefault(outer, {})[inner] = value
    return tree


def test_function():
    with jax.enable_x64(True):
        net, params, x1, x2 = made("recurrent")
        np.testing.assert_allclose(sp.empirical_ntk(recurrent, params, x1, x2), reference(net, params, x1, x2, False)[1], rtol=1e-10)


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sites", "nnx"))])
def test_operator(name):
    """Products, solutions, Lanczos and stochastic traces of the kernel that is never formed."""
    with jax.enable_x64(True):
        net, params, x, _ = made(name)
        full = sp.empirical_kernel(net, outputs="full")(params, x).ntk
        rank = (full.ndim - 2) // 2
        shape = (len(x), *full.shape[2:2 + rank])
        dense = full.transpose(0, *range(2, 2 + rank), 1, *range(2 + rank, full.ndim)).reshape(np.prod(shape), -1)
        operator = sp.ntk_operator(net, params, x)
        assert lx.is_positive_semidefinite(operator) and lx.is_symmetric(operator)
        v = jax.random.normal(KEY, shape)
        np.testing.assert_allclose(operator.mv(v).ravel(), dense @ v.ravel(), atol=1e-10 * abs(dense).max())
        traced = jax.jit(lambda p: sp.ntk_operator(net, p, x).mv(v))(params)
        np.testing.assert_allclose(traced, operator.mv(v), atol=1e-10 * abs(dense).max())

        def flat(v):
            return operator.mv(v.reshape(shape)).ravel()

        tridiagonal = matfree.decomp.tridiag_sym(dense.shape[0], reortho="full")(flat, v.ravel()).J_small
        largest = jnp.linalg.eigvalsh(tridiagonal)[-1]
        np.testing.assert_allclose(largest, jnp.linalg.eigvalsh(dense)[-1], rtol=1e-8)
        sampler = matfree.stochtrace.sampler_signs(v.ravel(), num=2000)
        estimate = matfree.stochtrace.estimator_monte_carlo(matfree.stochtrace.monte_carlo_trace(), sampler=sampler)(flat, KEY)
        spread = (2 * (jnp.sum(dense**2) - jnp.sum(jnp.diag(dense) ** 2)) / 2000) ** 0.5  # Hutchinson's standard error
        assert abs(estimate - jnp.trace(dense)) < 6 * spread


def test_operator_solves():
    with jax.enable_x64(True):
        net, params, x, _ = made("pre-norm")
        operator = sp.ntk_operator(net, params, x)
        v = operator.mv(jax.random.normal(KEY, (5, 2)))
        solution = lx.linear_solve(operator, v, lx.CG(rtol=1e-10, atol=1e-10)).value
        np.testing.assert_allclose(operator.mv(solution), v, rtol=1e-6)


@pytest.mark.parametrize("name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pre-norm", "recurrent"))])
def test_expansion(name):
    """The remainder of order ``k`` falls as ``2**-(k + 1)`` when the step is halved."""
    with jax.enable_x64(True):
        net, params, x, _ = made(name)
        x = x[:1]

        def step(t):
            return jax.tree.map(lambda a: a + t * jnp.cos(jnp.arange(a.size)).reshape(a.shape) if is_floating(a) else a, params)

        for order in (0, 1, 2, 3):
            expanded = sp.taylor(net, params, order)
            gaps = [float(jnp.abs(expanded(step(t), x) - net.apply(step(t), x)).max()) for t in (2e-3, 1e-3)]
            assert gaps[0] / gaps[1] == pytest.approx(2 ** (order + 1), rel=0.05)
        first = sp.linearize(net, params)
        np.testing.assert_allclose(jax.jit(first)(step(0.1), x), sp.taylor(net, params, 1)(step(0.1), x), rtol=1e-12)
        np.testing.assert_allclose(first(params, x), net.apply(params, x), rtol=1e-12)


def test_mean_over_seeds():
    """Of one linear layer: the NTK is the input's square, the NNGP has variance 2 K**2 over one feature (averaged over four)."""
    net = sp.network(nn.Dense(4, use_bias=False), np.ones((1, 8), np.float32))
    x = np.ones((1, 8), np.float32)
    seeds = 400
    sampled = sp.monte_carlo_kernel(net, seeds, KEY)(x)
    np.testing.assert_allclose(sampled.mean.ntk, 8.0, rtol=1e-6)
    assert float(sampled.stderr.ntk[0, 0]) < 1e-6
    deviation = (2 / 4 / seeds) ** 0.5  # of the mean of a squared normal number (LeCun: K = 1)
    assert abs(float(sampled.mean.nngp[0, 0]) - 1) < 6 * deviation
    assert float(sampled.stderr.nngp[0, 0]) == pytest.approx(deviation, rel=0.3)
    traced = jax.jit(sp.monte_carlo_kernel(net, seeds, KEY))(x)
    np.testing.assert_allclose(traced.mean.nngp, sampled.mean.nngp, rtol=1e-5)
    np.testing.assert_allclose(traced.stderr.nngp, sampled.stderr.nngp, rtol=1e-4)


X = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
NET = sp.network(MLP, X)
PARAMS = NET.init(KEY)
TRAINING = sp.network(Statistics(), X, train=True)
WEIGHTS = {"w": jnp.ones((5, 3))}


def product(params, x):
    return x @ params["w"]


def nan(params):
    return jax.tree.map(lambda a: a.at[(0,) * a.ndim].set(jnp.nan) if is_floating(a) else a, params)


BAD = {
    "outputs": (lambda: sp.empirical_kernel(NET, outputs="diagonal"), "outputs: 'diagonal' is none of 'trace', 'full'"),
    "parameterization": (lambda: sp.empirical_kernel(NET, parameterization="mup"), "parameterization: 'mup' is none of 'standard', 'ntk'"),
    "method": (lambda: sp.empirical_kernel(NET, method="fast"), "method: 'fast' is none of 'auto', 'jacobian'"),
    "memory": (lambda: sp.empirical_kernel(NET, memory=-1), "memory: -1 is not a positive number of bytes"),
    "memory in words": (lambda: sp.empirical_kernel(NET, memory="1GB"), "memory: '1GB' is not a positive number"),
    "too little memory": (lambda: sp.empirical_kernel(NET, memory=100)(PARAMS, X), "memory: 100 bytes are too few; one example"),
    "unknown rate": (lambda: sp.empirical_kernel(NET, learning_rates={"layers_9": 1.0}), "there is no parameter 'layers_9'"),
    "rate of many": (lambda: sp.empirical_kernel(NET, learning_rates={"layers_0": {"bias": np.ones(7)}}), r"shape \(7,\); one n"),
    "negative rate": (lambda: sp.empirical_kernel(NET, learning_rates={"layers_0": {"bias": -1.0}}), "learning_rates.*finite non-negative"),
    "another tree": (lambda: sp.empirical_kernel(NET)({"w": jnp.ones(3)}, X), "params: unknown parameter 'w'; the network has"),
    "missing leaf": (lambda: sp.empirical_kernel(NET)({"rngs": PARAMS["rngs"]}, X), "params: no parameter 'layers_0/"),
    "shape of a leaf": (lambda: sp.empirical_kernel(NET)(jax.tree.map(lambda a: a[None], PARAMS), X), r"params\['.*'\]: shape"),
    "NaN in a leaf": (lambda: sp.empirical_kernel(NET)(nan(PARAMS), X), r"params\['layers_0/bias'\]: has NaN"),
    "numbers for arrays": (lambda: sp.empirical_ntk(product, {"w": 1.0}, X), r"params\['w'\]: float is not an array"),
    "integers for parameters": (lambda: sp.empirical_ntk(product, {"w": jnp.ones((5, 3), int)}, X), "params: no floating parameter"),
    "NaN": (lambda: sp.empirical_kernel(NET)(PARAMS, X * np.nan), r"x\[0\]: has NaN"),
    "integers": (lambda: sp.empirical_ntk(product, WEIGHTS, np.ones((4, 5), int)), r"x\[0\]: integers \(int32\) that the model turns"),
    "x2": (lambda: sp.empirical_kernel(NET)(PARAMS, X, X[:, :3]), "x2: its examples have shape"),
    "kind of x2": (lambda: sp.empirical_ntk(product, WEIGHTS, X, np.ones((4, 5), int)), "x2: numbers of dtype int32"),
    "features": (lambda: sp.empirical_ntk(product, WEIGHTS, X[:, :3]), r"model: product raised on inputs of shape \[\(4, 3\)\]"),
    "no feature axis": (lambda: sp.empirical_ntk(lambda p, x: (x @ p["w"])[:, 0], WEIGHTS, X), r"shape \(4,\) have no feature"),
    "scalar output": (lambda: sp.empirical_ntk(lambda p, x: (x @ p["w"]).sum(), WEIGHTS, X), r"outputs of shape \(\) have no feature axis"),
    "no batch axis": (lambda: sp.empirical_ntk(lambda p, x: (x @ p["w"]).T, WEIGHTS, X), r"shape \(3, 4\) for 4 examples; axis 0 must be"),
    "two outputs": (lambda: sp.empirical_ntk(lambda p, x: (x @ p["w"],) * 2, WEIGHTS, X), "model: returns 2 arrays"),
    "integer outputs": (lambda: sp.empirical_ntk(lambda p, x: jnp.int32(x @ p["w"]), WEIGHTS, X), "model: outputs of dtype int32"),
    "fixed batch": (lambda: sp.empirical_ntk(lambda p, x: (x.reshape(4, 5) @ p["w"]), WEIGHTS, X), "not run on a batch of one example"),
    "examples that mix": (lambda: sp.empirical_ntk(lambda p, x: (x - x.mean(0)) @ p["w"], WEIGHTS, X), "depends on the rest of its batch"),
    "batch statistics": (lambda: sp.empirical_kernel(TRAINING)(TRAINING.init(KEY), X), "use evaluation mode"),
    "unused parameters": (lambda: sp.empirical_ntk(lambda p, x: x, WEIGHTS, X), "no random parameter"),
    "not a function": (lambda: sp.empirical_ntk(3, WEIGHTS, X), "apply_fn: int is not a function"),
    "seeds": (lambda: sp.monte_carlo_kernel(NET, 1), "seeds: 1 given; standard errors need at least 2"),
    "order": (lambda: sp.taylor(NET, PARAMS, -1), "order: -1 is not a non-negative integer"),
    "model of an expansion": (lambda: sp.linearize(3, PARAMS), "model: int is neither a network nor a function"),
    "expansion elsewhere": (lambda: sp.linearize(NET, PARAMS)({"w": jnp.ones(3)}, X), "params: unknown parameter 'w'"),
    "laws of a function": (lambda: sp.ntk_operator(product, WEIGHTS, X, parameterization="ntk"), "a plain function has no laws"),
    "operator without inputs": (lambda: sp.ntk_operator(product, WEIGHTS), "x: give at least one example input"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    run, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        run()


def test_mixing_is_not_hidden_by_jit():
    kernel = jax.jit(lambda x: sp.empirical_ntk(lambda p, x: (x - x.mean(0)) @ p["w"], WEIGHTS, x))
    assert jnp.isnan(kernel(X)).all()


class WidthCnn(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(self.width, (3, 3), kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(8)(x.mean((1, 2)))


WIDE = {  # model of a width, shape of an example, widths
    "mlp": (lambda n: nn.Sequential([nn.Dense(n), nn.relu, nn.Dense(n), nn.relu, nn.Dense(8)]), (6,), (32, 64, 128, 256, 512)),
    "cnn": (WidthCnn, (5, 5, 3), (16, 32, 64, 128)),
    "pre-norm": (PreNorm, (6,), (32, 64, 128, 256)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE)
def test_fluctuation_falls_with_width(name):
    """The NTK's relative standard deviation over seeds falls as ``width**-0.5`` (Jacot et al. 2018).

    Of 400 seeds and all entries of a kernel of four inputs; the slope of log on log must be -0.5 within 0.1.
    """
    factory, shape, widths = WIDE[name]
    x = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    seeds, deviations = 400, []
    for width in widths:
        sampled = sp.monte_carlo_kernel(sp.network(factory(width), x), seeds, KEY, parameterization="ntk")(x)
        deviations.append(np.linalg.norm(sampled.stderr.ntk) * seeds**0.5 / np.linalg.norm(sampled.mean.ntk))
    slope = np.polyfit(np.log(widths), np.log(deviations), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1), (slope, deviations)
