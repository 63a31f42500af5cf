"""neural-tangents 0.6.5 on this JAX: its reference kernels again, its empirical kernels, its predictions from our kernels."""

import importlib
import json
import sys
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from golden_models import MODELS, conv, flat

import sigprop as sp
from sigprop.interop import kernel_fn_of, kernel_of, neural_tangents

DATA = Path(__file__).parent / "data"
REFERENCE = json.loads((DATA / "neural_tangents_golden.json").read_text())["architectures"]
RANDOM = np.random.default_rng(0)
INSTALLED = all(find_spec(name) for name in ("neural_tangents", "frozendict"))
needs_it = pytest.mark.skipif(not INSTALLED, reason=f"needs neural-tangents: {neural_tangents.INSTALL}")


@pytest.fixture(scope="module")
def nt():
    return neural_tangents.load()


def helpers(s):
    """The short names in which the reference architectures are written."""

    def fc(act, W=1.4, b=0.3, depth=2):
        hidden = [layer for _ in range(depth) for layer in (s.Dense(32, W_std=W, b_std=b), act())]
        return s.serial(*hidden, s.Dense(1, W_std=W, b_std=b))

    def resblock(n, strides=(1, 1), project=False):
        def same(strides=(1, 1)):
            return s.Conv(n, (3, 3), strides=strides, padding="SAME")

        main = s.serial(s.Relu(), same(strides), s.Relu(), same())
        return s.serial(s.FanOut(2), s.parallel(main, same(strides) if project else s.Identity()), s.FanInSum())

    return {"s": s, "S": s.serial, "D": s.Dense, "R": s.Relu, "fc": fc, "resblock": resblock}


@needs_it
@pytest.mark.filterwarnings("ignore:`FanIn` layers assume:UserWarning", "ignore:Linear scaling attention:UserWarning")  # its advice
@pytest.mark.parametrize("architecture", REFERENCE, ids=lambda a: a["name"])
def test_reference_is_recomputed(nt, architecture):
    reference, name = np.load(DATA / "neural_tangents_golden.npz"), architecture["name"]
    kernel = jax.jit(kernel_of(eval(architecture["stax_code"], helpers(nt.stax))[2]))
    x1, x2 = reference[f"{name}/x1"], reference[f"{name}/x2"]
    with jax.enable_x64(True):
        for suffix, found in (("", kernel(x1, x2)), ("_11", kernel(x1))):
            for which in ("nngp", "ntk"):
                np.testing.assert_allclose(getattr(found, which), reference[f"{name}/{which}{suffix}"], rtol=1e-8)


@needs_it
def test_load_changes_nothing_else(nt):
    assert neural_tangents.load() is nt is importlib.import_module("neural_tangents")

    def state():
        modules = [m for name, m in sys.modules.items() if name.partition(".")[0] in ("jax", "scipy", "builtins")]
        return [(m.__name__, dict(vars(m))) for m in modules], list(sys.meta_path)

    ours = {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "neural_tangents"}
    before = state()
    for name in ours:
        del sys.modules[name]
    try:
        again = neural_tangents.load()
        assert again is not nt and again.stax is not nt.stax
        after = state()
    finally:
        sys.modules.update(ours)
    assert before[1] == after[1] and [name for name, _ in before[0]] == [name for name, _ in after[0]]
    for (name, old), (_, new) in zip(before[0], after[0], strict=True):
        assert old.keys() == new.keys(), name
        assert [key for key in old if old[key] is not new[key]] == [], name
    assert not hasattr(jax.core, "Primitive") and "jax.util" not in sys.modules


@pytest.mark.parametrize("absent", ["neural_tangents", "frozendict"])
def test_absence_says_how_to_install(monkeypatch, absent):
    monkeypatch.delitem(sys.modules, "neural_tangents", raising=False)
    monkeypatch.setattr(neural_tangents, "find_spec", lambda name: None if name == absent else find_spec("json"))
    with pytest.raises(sp.MissingDependency, match=f"^{absent} not installed: .*--no-deps neural-tangents==0.6.5"):
        neural_tangents.load()
    assert issubclass(sp.MissingDependency, ImportError) and issubclass(sp.MissingDependency, sp.SigpropError)


class Gated(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(12)(x) * np.linspace(0.5, 1.5, 12, dtype=np.float32)
        x = jnp.concatenate([nn.gelu(x[:, :6]), jnp.tanh(x[:, 6:])], -1) * nn.sigmoid(nn.Dense(12)(x))
        return nn.Dense(3)(nn.LayerNorm()(x))


FINITE = {
    "mlp": (nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(16), jnp.tanh, nn.Dense(3)]), (5,)),
    "gated": (Gated(), (5,)),
    "cnn": (nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, lambda x: nn.avg_pool(x, (2, 2), (2, 2)), nn.Conv(8, (3, 3), strides=(2, 2)),
                           nn.relu, lambda x: nn.max_pool(x, (2, 2)), flat, nn.Dense(3)]), (8, 8, 2)),
}


@cache
def contracted(name):
    """A model, its parameters, two batches, and ``[n1, n2, 3, 3]`` contractions of their Jacobians."""
    model, shape = FINITE[name]
    batches = [jax.random.normal(jax.random.key(k), (n, *shape)) for k, n in ((1, 4), (2, 3))]
    params = model.init(jax.random.key(0), batches[0])

    @jax.jit
    def jacobian(x):
        leaves = jax.tree.leaves(jax.jacrev(lambda p: model.apply(p, x))(params))
        return jnp.concatenate([leaf.reshape(len(x), 3, -1) for leaf in leaves], -1)

    return model.apply, params, batches, np.einsum("iap,jbp->ijab", *map(jacobian, batches))


@needs_it
@pytest.mark.parametrize(("name", "implementation"), [
    ("mlp", "AUTO"), *product(FINITE, ["JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", "STRUCTURED_DERIVATIVES"])])
@pytest.mark.parametrize("vmap_axes", [None, pytest.param(0, marks=pytest.mark.slow)])
def test_empirical_ntk_is_the_contraction_of_jacobians(nt, name, implementation, vmap_axes):
    apply, params, batches, expected = contracted(name)
    kernel = nt.empirical_ntk_fn(apply, trace_axes=(), vmap_axes=vmap_axes, implementation=nt.NtkImplementation[implementation])
    np.testing.assert_allclose(jax.jit(kernel)(*batches, params), expected, atol=2e-6 * abs(expected).max(), rtol=0)


X, TEST, Y = RANDOM.standard_normal((6, 7)), RANDOM.standard_normal((4, 7)), RANDOM.standard_normal((6, 2))


def regression(kernel):
    """Posterior mean and covariance of Gaussian process regression, in NumPy."""
    train, cross, test = (np.asarray(kernel(*pair).nngp) for pair in ((X,), (TEST, X), (TEST,)))
    train = train + 1e-3 * np.trace(train) / len(X) * np.eye(len(X))
    return cross @ np.linalg.solve(train, Y), test - cross @ np.linalg.solve(train, cross.T)


@needs_it
@pytest.mark.parametrize("batched", [False, True])
def test_predictions_from_our_kernel(nt, batched):
    with jax.enable_x64(True):
        kernel = sp.infinite_kernel(sp.network(MODELS["fc_relu"](), X))
        kernel_fn = nt.batch(kernel_fn_of(kernel), batch_size=2) if batched else kernel_fn_of(kernel)
        infer = nt.predict.gp_inference(kernel_fn(X, None, ("nngp",)), Y, diag_reg=1e-3)
        exact = infer("nngp", kernel_fn(TEST, X, ("nngp",)), kernel_fn(TEST, None, ("nngp",)))
        flow = nt.predict.gradient_descent_mse_ensemble(kernel_fn, X, Y, diag_reg=1e-3)
        mean, covariance = regression(kernel)
        for found in (exact, flow(x_test=TEST, get="nngp", compute_cov=True), flow(t=1e9, x_test=TEST, get="nngp", compute_cov=True)):
            np.testing.assert_allclose(found.mean, mean, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9, atol=1e-12)


@needs_it
@pytest.mark.parametrize("t", [None, 3.0])
def test_ensemble_of_our_ntk_is_that_of_theirs(nt, t):
    with jax.enable_x64(True):
        ours = kernel_fn_of(sp.network(MODELS["fc_relu"](), X), parameterization="ntk")
        found, expected = (nt.predict.gradient_descent_mse_ensemble(k, X, Y, diag_reg=1e-3)(t, TEST, ("nngp", "ntk"), True)
                           for k in (ours, helpers(nt.stax)["fc"](nt.stax.Relu)[2]))
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-9), tuple(found), tuple(expected))


@needs_it
@pytest.mark.parametrize("t", [None, 3.0])
def test_ntk_goes_round(nt, t):
    """A kernel of theirs as ours and back predicts the same, means and covariances, NNGP and NTK."""
    with jax.enable_x64(True):
        theirs = helpers(nt.stax)["fc"](nt.stax.Erf)[2]
        found, expected = (nt.predict.gradient_descent_mse_ensemble(k, X, Y, diag_reg=1e-3)(t, TEST, ("nngp", "ntk"), True)
                           for k in (kernel_fn_of(kernel_of(theirs)), theirs))
        jax.tree.map(np.testing.assert_array_equal, tuple(found), tuple(expected))


@needs_it
@pytest.mark.parametrize("depth", [1, 2])  # stax keeps sites reversed after an odd number of convolutions
def test_sites_are_reordered(nt, depth):
    s, options = nt.stax, {"W_std": 1.4, "b_std": 0.3}
    images = RANDOM.standard_normal((2, 4, 5, 2)), RANDOM.standard_normal((3, 4, 5, 2))
    layers = [layer for k in range(depth) for layer in (conv(16, (3 - k, 2), 1.4, 0.3), nn.relu)]
    stax = [layer for k in range(depth) for layer in (s.Conv(16, (3 - k, 2), **options), s.Relu())]
    with jax.enable_x64(True):
        ours, theirs = sp.infinite_kernel(sp.network(nn.Sequential(layers), images[0])), s.serial(*stax)[2]
        np.testing.assert_allclose(kernel_of(theirs)(*images).nngp, ours(*images).nngp, rtol=1e-10)
        paired = np.asarray(kernel_fn_of(ours)(*images, "nngp"))
        np.testing.assert_allclose(np.einsum("ijaabb->ijab", paired), theirs(*images, "nngp", diagonal_spatial=True), rtol=1e-10)


@needs_it
def test_pairs_of_sites_are_asked_for(nt):
    images = RANDOM.standard_normal((2, 4, 5, 2))
    assert kernel_of(nt.stax.ConvLocal(4, (2, 2))[2])(images).nngp.shape == (2, 2, 3, 4, 3, 4)


def test_get_is_checked():
    kernel_fn = kernel_fn_of(sp.network(nn.Sequential([nn.Dense(64), nn.relu, nn.Dense(1)]), np.float32(X)))
    without = kernel_fn_of(lambda x1, x2=None: sp.Kernel(jnp.ones((6, 6)), None, jnp.zeros(())))
    assert kernel_fn(np.float32(X), get=("nngp",))._fields == ("nngp",) and without(X)._fields == ("nngp",)
    for get, message in (("cov1", "'cov1' given"), ((), r"\(\) given"), ("ntk", "has no NTK"), (("nngp", "ntk"), "has no NTK")):
        with pytest.raises(sp.InvalidInput, match=f"get: .*{message}"):
            without(X, get=get)


@needs_it
def test_largest_learning_rate(nt):
    """Uses SciPy's eigenvalues by index, whose keyword changed."""
    gram = X @ X.T
    with jax.enable_x64(True):
        np.testing.assert_allclose(nt.predict.max_learning_rate(jnp.asarray(gram)), 2 * len(X) / scipy.linalg.eigvalsh(gram)[-1], rtol=1e-9)
