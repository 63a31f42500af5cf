"""Remedies: what is predicted meets the target, what is measured agrees with it, and training that failed succeeds.

Measurements allow for five standard errors (false alarm 1e-6 per weight) and for the part that falls with the width.
"""

from functools import partial

import flax.linen as lin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from remedy_models import CASES, PIXELS, train

import sigprop as sp

X = PIXELS[:4]
SMALL = {  # fewer layers of the same models, for the fast suite
    "U-Net, LeCun": {"widths": (8, 8, 8)}, "tanh, 100 layers, LeCun": {}, "autoencoder, 40 layers, N(0, 0.01²)": {},
    "ResNet without norm, He": {"blocks": 4, "width": 8}, "post-norm transformer, Xavier": {"layers": 2, "width": 16},
}


def made(name, target="forward", **sizes):
    net = CASES[name].network(2, **(sizes or SMALL[name]))
    return net, sp.remedy(net, target=target)


@pytest.mark.parametrize("name", CASES)
def test_predicted_variances_meet_the_target(name):
    """Every weight that can be rescaled, residual branches by their share."""
    _, found = made(name)
    np.testing.assert_allclose([10**layer.log10_after for layer in found.layers], [layer.aim for layer in found.layers], rtol=0.01)
    assert max(abs(layer.log10_before - np.log10(layer.aim)) for layer in found.layers) > 0.1


@pytest.mark.parametrize("name", ["tanh, 100 layers, LeCun", "autoencoder, 40 layers, N(0, 0.01²)"])
def test_measured_variances_agree(name):
    """Width 64: what is not Gaussian adds up over layers, as 1/width."""
    _, found = made(name)
    measured = found.measured(seeds=256)
    predicted, seen, error = (measured[k].values for k in ("predicted", "measured", "measured_stderr"))
    depth = np.arange(1, len(predicted) + 1)
    np.testing.assert_array_less(abs(seen - predicted), 5 * error + 5 * depth / 64 * predicted)
    np.testing.assert_array_less(abs(seen - predicted)[:8], (5 * error + 0.1 * predicted)[:8])


def test_critical_weights_conserve_perturbations_and_gradients():
    """chi_1 = 1 at each layer: E[g²] is the same at the first and at the last hidden layer, 100 layers apart."""
    _, found = made("tanh, 100 layers, LeCun", "critical")
    sizes = [after for _, after in found.gradients.values()]
    assert abs(sizes[1] - sizes[-2]) < np.log10(1.02)
    before = [size for size, _ in found.gradients.values()]
    assert abs(before[1] - before[-2]) > 1


def test_targets_of_a_linear_network_are_those_of_the_textbooks():
    """Variances of weights times fan-in, fan-out, and the geometric mean of the fans (He et al. 2015, section 2.2)."""
    widths = (64, 128, 256, 64)
    net = sp.network(lin.Sequential([lin.Dense(n, use_bias=False) for n in (*widths, 8)]), X / np.sqrt(np.mean(X**2, 1, keepdims=True)))
    for target, scale in {"forward": lambda i, o: 1 / i, "backward": lambda i, o: 1 / o, "mean": lambda i, o: (i * o) ** -0.5,
                          "critical": lambda i, o: 1 / i}.items():
        laws = dict(sp.remedy(net, target=target).laws)
        for k in (1, 2):  # neither first, nor last, nor just before a layer whose scale is set by the signal
            np.testing.assert_allclose(laws[f"layers_{k}/kernel"].variance, scale(widths[k - 1], widths[k]), rtol=1e-3, err_msg=target)


def test_remedied_networks_are_networks():
    net, found = made("autoencoder, 40 layers, N(0, 0.01²)")
    key = jax.random.key(3)
    assert jax.tree.map(jnp.shape, net.init(key)) == jax.tree.map(jnp.shape, jax.jit(found.params)(key))
    for path, gain in found.gains.items():
        law, was = dict(found.laws)[path], dict(net.laws)[path]
        np.testing.assert_allclose(law.variance, was.variance * gain**2, rtol=1e-5)
        np.testing.assert_allclose(found.initializers[path].law(found.laws.shapes[path]).variance, law.variance, rtol=1e-5)
    assert "gain" in str(found) and str(found).count("\n") == len(found.layers)
    predicted = sp.propagate(found.network, *found.x, backward=False)
    assert predicted.second_moment.values[-1] > 0.5


class Head(lin.Module):
    zero: bool = True

    @lin.compact
    def __call__(self, x):
        init = lin.initializers.zeros if self.zero else lin.initializers.lecun_normal()
        return lin.Dense(3, kernel_init=init, name="head")(lin.relu(lin.Dense(16, name="body")(x)))


class Scale(lin.Module):
    @lin.compact
    def __call__(self, x):
        return x * self.param("scale", lin.initializers.ones, (x.shape[-1],))


NET = sp.network(Head(), X)
BAD = {
    "zero-initialized head": (lambda: sp.remedy(NET), r"cannot be met at 'head/kernel': it starts at 0.*keep=\['head/kernel'\]"),
    "unknown target": (lambda: sp.remedy(NET, target="gradient"), "target: 'gradient' is none of"),
    "a number": (lambda: sp.remedy(NET, target=1.0), "a number goes into variance="),
    "negative": (lambda: sp.remedy(NET, variance=-1.0), "variance: -1.0 given"),
    "growth": (lambda: sp.remedy(NET, growth=0.0), "growth: 0.0 given"),
    "unknown path": (lambda: sp.remedy(NET, keep=["tail"]), "keep: there is no parameter 'tail'"),
    "no weights": (lambda: sp.remedy(sp.network(Scale(), X)), "nothing to rescale"),
    "not finite": (lambda: sp.remedy(NET, np.full((2, 64), np.nan, np.float32)), "finite"),
    "traced": (lambda: jax.jit(lambda x: sp.remedy(sp.network(Head(False), X), x).layers[0].gain)(X), "outside of jit"),
    "nothing passes": (lambda: sp.remedy(sp.network(lin.Sequential([lin.Dense(8), jnp.sign, lin.Dense(8), lin.Dense(2)]), X),
                                         target="critical"), "no perturbation of the first weights passes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, message = BAD[name]
    with pytest.raises(sp.InvalidInput, match=message):
        call()


def test_kept_weights_keep_their_initializer():
    found = sp.remedy(NET, keep="head/kernel")
    assert list(found.gains) == ["body/kernel"] and dict(found.laws)["head/kernel"].variance == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_training_that_failed_succeeds(name):
    """The same model, optimizer and minibatches of digits, before and after."""
    case = CASES[name]
    net = case.network()
    found = sp.remedy(net, target=case.target)
    key, optimizer = jax.random.key(0), partial(optax.sgd, momentum=0.9)
    ends = [train(net, case, params, optimizer(1e-2), 300)[1] for params in (net.init(key), found.params(key))]
    assert ends[0] > 0.9 * case.chance and ends[1] < 0.5 * case.chance, ends
