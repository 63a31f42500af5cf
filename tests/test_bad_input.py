"""Bad input: one clear error that names the argument and what is wrong with it."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp
from sigprop.network import check_pair

X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
IMAGES = np.zeros((2, 6, 6, 8), np.float32)


class Dense(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(8, 64, rngs=rngs)

    def __call__(self, x, scale=1.0):
        return scale * self.layer(x)


class Cnn(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(16, (3, 3))(x)


class Tokens(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(8)(nn.Embed(11, 64)(tokens)) + nn.Dense(8)(jax.nn.one_hot(tokens, 11))


class Raises(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(8, 64, rngs=rngs)

    def __call__(self, x):
        raise RuntimeError("not today")


class BrokenFactory(nnx.Module):
    def __init__(self, rngs):
        raise RuntimeError("no such size")


def init(key):
    return {"w": jax.random.normal(key, (8, 64)), "b": jnp.zeros(64)}


def apply(params, x):
    return jnp.tanh(x @ params["w"] + params["b"])


FIXED = init(jax.random.key(0))
PARAMS = init(jax.random.key(1))
COUNTER = itertools.count()
GENERATOR = np.random.default_rng(0)
LAW = sp.Law(0.0, 0.1)
INSTANCE = Dense(nnx.Rngs(0))


def laws(**given):
    return lambda: sp.network(apply, X, params=PARAMS, laws=given)


def with_(entry):
    x = X.copy()
    x[1, 2] = entry
    return x


def changing_program(params, x):
    return x @ params["w"] if next(COUNTER) % 2 else jnp.tanh(x @ params["w"])


MODELS = {
    "not a model": (lambda: sp.network(3, X), "model: int is neither a Flax module, a factory"),
    "name of a model": (lambda: sp.network("model.py", X), "model: str is neither"),
    "linen class": (lambda: sp.network(Cnn, IMAGES), "model: Cnn is a linen class; give an instance"),
    "linen without input": (lambda: sp.network(Cnn()), "x: a linen module needs an example input"),
    "factory of something else": (lambda: sp.network(lambda rngs: 3, X), "the factory <lambda> returned int, not an nnx.Module"),
    "factory that raises": (lambda: sp.network(BrokenFactory, X), "model: the factory BrokenFactory raised.*RuntimeError: no such size"),
    "initializer that raises": (lambda: sp.network(apply, X, init=lambda: {}), "init: the initializer of apply raised.*TypeError"),
    "initializer that is no function": (lambda: sp.network(apply, X, init=PARAMS), "init: dict is not a function"),
    "initializer that makes nothing": (lambda: sp.network(apply, X, init=lambda key: {}), "init: the initializer .* returned no arrays"),
    "function that is none": (lambda: sp.network(3, X, init=init), "model: int is not a function apply"),
    "init and params": (lambda: sp.network(apply, X, init=init, params=PARAMS), "init, params: give one of them"),
    "laws without parameters": (lambda: sp.network(apply, X, laws={"w": LAW}), "init, params: give one of them"),
    "laws for a module": (lambda: sp.network(INSTANCE, X, laws={"w": LAW}), "init, params, laws: a Flax module has its own"),
    "model that raises": (lambda: sp.propagate(sp.network(Raises, X), X), "model: Raises raised on inputs .*RuntimeError: not today"),
    "closed-over function": (lambda: sp.propagate(sp.network(lambda p, x: x @ FIXED["w"], init=init), X),
                             "model: no random parameter of <lambda> reaches its output.*close over concrete parameters"),
    "closed-over but for a constant bias": (lambda: sp.propagate(sp.network(lambda p, x: x @ FIXED["w"] + p["b"], init=init), X),
                                            "no random parameter of <lambda> reaches its output"),
    "closed-over module": (lambda: sp.infinite_kernel(sp.network(lambda p, x: INSTANCE(x), init=init))(X), "no random parameter"),
    "program that changes": (lambda: sp.propagate(sp.network(changing_program, init=init), X), "changing_program is not deterministic"),
    "constant that changes": (lambda: sp.propagate(sp.network(lambda p, x: x @ p["w"] * GENERATOR.random(), init=init), X),
                              "<lambda> is not deterministic.*numpy.random.*constant changes at test_bad_input.py"),
    "noise from NumPy": (lambda: sp.propagate(sp.network(lambda p, x: (x + GENERATOR.random((4, 8))) @ p["w"], init=init), X),
                         "not deterministic.*numpy.random"),
    "factory that ignores rngs": (lambda: sp.propagate(sp.network(lambda rngs: Dense(nnx.Rngs(0))), X), "ignores its key"),
    "factory of an instance": (lambda: sp.propagate(sp.network(lambda rngs: nnx.Sequential(INSTANCE)), X), "ignores its key"),
    "initializer of fixed numbers": (lambda: sp.network(apply, init=lambda key: FIXED).laws, "ignores its key, so that every seed"),
    "initializer from NumPy": (lambda: sp.network(apply, init=lambda k: {**init(k), "w": jnp.asarray(GENERATOR.random((8, 64)))}).laws,
                               "the initializer of apply is not deterministic"),
}
OPTIONS = {
    "nnx option": (lambda: sp.network(Dense, X, trian=False), r"unknown options \['trian'\]: Dense.__call__ takes \['scale', 'x'\]"),
    "instance option": (lambda: sp.network(INSTANCE, X, trian=False), r"unknown options \['trian'\]"),
    "linen option": (lambda: sp.network(Cnn(), IMAGES, trian=False), r"unknown options \['trian'\]: Cnn.__call__ takes \['x'\]"),
    "linen train": (lambda: sp.network(Cnn(), IMAGES, train=False), r"unknown options \['train'\]: Cnn.__call__ takes \['x'\]"),
    "function option": (lambda: sp.network(apply, X, init=init, train=False), r"unknown options \['train'\]: a pure function takes"),
    "method": (lambda: sp.network(Dense, X, method="encode"), "method: Dense has no method 'encode'"),
    "linen method": (lambda: sp.network(Cnn(), IMAGES, method="encode"), "method: Cnn has no method 'encode'"),
}
LAWS = {
    "one too many": (laws(w=LAW, c=LAW), r"laws: there is no parameter 'c'; the parameters are \['b', 'w'\]"),
    "another tree": (lambda: sp.network(apply, X, params=PARAMS, laws=[LAW]), "laws: there is no parameter '0'"),
    "shape": (laws(w=sp.Law(0.0, np.ones((64, 8)))), r"laws\['w'\]: variance of shape \(64, 8\) does not broadcast to .*\(8, 64\)"),
    "larger shape": (laws(w=sp.Law(np.zeros((2, 8, 64)), 1.0)), r"laws\['w'\]: mean of shape \(2, 8, 64\) does not broadcast"),
    "negative variance": (laws(w=sp.Law(0.0, -0.1)), r"laws\['w'\]: negative variance -0.1"),
    "NaN": (laws(w=sp.Law(0.0, float("nan"))), r"laws\['w'\]: variance nan is not a finite number"),
    "not a law": (laws(w=0.1), r"laws\['w'\]: float is not a sp.Law"),
    "unknown family": (laws(w=sp.Law(0.0, 0.1, "cauchy")), r"laws\['w'\]: unknown family 'cauchy'; known are normal, "),
    "constant with a variance": (laws(w=sp.Law(0.0, 0.1, "constant")), r"laws\['w'\]: a constant has variance 0"),
    "orthogonal vector": (laws(b=sp.Law(0.0, 0.1, "orthogonal")), r"laws\['b'\]: an orthogonal parameter needs two axes"),
    "law of a counter": (lambda: sp.network(apply, X, params={**PARAMS, "n": jnp.arange(3)}, laws={"n": LAW}), r"laws\['n'\]: .*int32"),
}
INPUTS = {
    "NaN": (lambda: sp.propagate(sp.network(Dense), with_(np.nan)), r"x\[0\]: has NaN or infinite entries"),
    "infinity": (lambda: sp.measure(sp.network(Dense), with_(np.inf)), r"x\[0\]: has NaN or infinite entries"),
    "NaN in half precision": (lambda: sp.network(Dense, with_(np.nan).astype(jnp.bfloat16)), r"x\[0\]: has NaN or infinite entries"),
    "NaN in a tree": (lambda: sp.network(Dense, {"image": with_(np.nan)}), r"x\[0\]\['image'\]: has NaN"),
    "empty batch": (lambda: sp.propagate(sp.network(Dense), X[:0]), r"x\[0\]: shape \(0, 8\) is empty"),
    "empty batch of the example": (lambda: sp.network(Cnn(), IMAGES[:0]), r"x\[0\]: shape \(0, 6, 6, 8\) is empty"),
    "scalar": (lambda: sp.propagate(sp.network(Dense), np.float32(1)), r"x\[0\]: a scalar"),
    "list": (lambda: sp.network(Dense, [[1.0, 2.0]]), r"x\[0\]\[0\]\[0\]: a scalar"),
    "text": (lambda: sp.network(Dense, np.array(["a", "b"])), r"x\[0\]: ndarray is not an array of numbers"),
    "nothing": (lambda: sp.propagate(sp.network(Dense)), "x: give at least one example input"),
    "integers": (lambda: sp.propagate(sp.network(Dense), np.ones((4, 8), np.int32)), r"x\[0\]: integers \(int32\) that the model turns"),
    "bytes": (lambda: sp.propagate(sp.network(Cnn(), IMAGES.astype(np.uint8)), IMAGES.astype(np.uint8)), r"x\[0\]: integers \(uint8\)"),
    "numbers for tokens": (lambda: sp.network(Tokens(), X), "model: Tokens raised on inputs of shape"),
    "features": (lambda: sp.propagate(sp.network(Dense), X[:, :5]), r"model: Dense raised on inputs of shape \[\(4, 5\)\]"),
    "rank": (lambda: sp.propagate(sp.network(Cnn(), IMAGES), IMAGES[0]), r"x\[0\]: rank 3, shape \(6, 6, 8\); .* rank 4"),
    "number of inputs": (lambda: sp.propagate(sp.network(Cnn(), IMAGES), IMAGES, IMAGES), "x: structure .* differs from that of the"),
    "kind of numbers": (lambda: sp.propagate(sp.network(Dense, X), np.ones((4, 8), int)), "x: numbers of dtype int32, those of the"),
    "x2 of another shape": (lambda: sp.infinite_kernel(sp.network(Dense, X))(X, X[:, :5]), "x2: its examples"),
}



def deep(activation, depth):
    return sp.network(nn.Sequential([layer for _ in range(depth) for layer in (nn.Dense(64), activation)] + [nn.Dense(3)]), X)


GROWTH = r"rests on values beyond 8.5 standard deviations.*bound it, or scale or normalize"
KERNELS = {
    "exp at depth": (lambda: sp.infinite_kernel(deep(jnp.exp, 3))(X), GROWTH),
    "exp at depth, gradients": (lambda: sp.propagate(deep(jnp.exp, 3), X, backward=True), GROWTH),
    "exp of a large input": (lambda: sp.infinite_kernel(deep(jnp.exp, 1), ntk=False)(10 * X), GROWTH),
    "moments that do not exist": (lambda: sp.infinite_kernel(deep(lambda z: jnp.exp(z**2 / 4), 1))(10 * X), GROWTH),
    "reciprocal": (lambda: sp.infinite_kernel(deep(lambda z: 1 / z, 1))(X), "the expectation of .* is not finite"),
    "overflow": (lambda: sp.infinite_kernel(deep(lambda z: z**3, 4))(X), "overflows float32: the signal explodes; float64 inputs"),
    "rates of another tree": (lambda: sp.infinite_kernel(deep(nn.relu, 1), learning_rates={"kernel": 1.0}), "no parameter 'kernel'"),
    "rates of each entry": (lambda: sp.infinite_kernel(deep(nn.relu, 1), learning_rates={"layers_0/bias": np.ones(64)}),
                            r"learning_rates\['layers_0/bias'\]: shape \(64,\) is not a single number"),
    "parameters of a deeper network": (lambda: sp.empirical_kernel(deep(nn.relu, 1))(deep(nn.relu, 2).init(jax.random.key(0)), X),
                                       r"params\['layers_2/bias'\]: shape \(64,\); the network has \(3,\)"),
    "no parameters": (lambda: sp.empirical_kernel(deep(nn.relu, 1))(None, X), "params: no parameter"),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_that_cannot_be_had(name):
    run, message = KERNELS[name]
    with pytest.raises((sp.InvalidInput, sp.Unsound), match=message):
        run()


@pytest.mark.parametrize("name", [*(f"model, {k}" for k in MODELS), *(f"options, {k}" for k in OPTIONS), *(f"laws, {k}" for k in LAWS),
                                  *(f"input, {k}" for k in INPUTS)])
def test_bad_input_is_named(name):
    group, _, key = name.partition(", ")
    run, message = {"model": MODELS, "options": OPTIONS, "laws": LAWS, "input": INPUTS}[group][key]
    with pytest.raises(sp.InvalidInput, match=message):
        run()


@pytest.mark.parametrize(("x1", "x2", "message"), [
    (X, X[:, :5], r"x2: its examples have shape \(5,\), those of x1 \(8,\)"), (X, {"image": X}, "x2: structure .* differs from that of x1"),
    (X, X.astype(int), "x2: numbers of dtype int32, those of x1 are float32"), (X, X[:0], "is empty"), (with_(np.nan), X, "has NaN"),
])
def test_pair_of_inputs(x1, x2, message):
    with pytest.raises(sp.InvalidInput, match=message):
        check_pair(x1, x2)


def test_good_input_is_not_refused():
    """Tokens go through an embedding or a one-hot code, constants may be closed over, a model may have no random parameter."""
    tokens = np.random.default_rng(0).integers(0, 11, (4, 5))
    assert np.isfinite(sp.propagate(sp.network(Tokens(), tokens), tokens).second_moment.values).all()
    fixed = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    assert np.isfinite(sp.propagate(sp.network(lambda p, x: x @ fixed @ p["w"], init=init), X).second_moment.values).all()
    assert np.isfinite(sp.propagate(sp.network(nn.LayerNorm(), X), X).second_moment.values).all()


def test_what_does_not_fit_is_refused_with_what_it_takes(monkeypatch):
    """Four draws of 8 by 64 weights take 8 kB and more."""
    monkeypatch.setattr("sigprop.memory.available", lambda: 5000)
    with pytest.raises(sp.InvalidInput, match=r"net: a few draws at once need [\d.e+]+ bytes, this machine has 5e\+03; measure a smaller"):
        sp.measure(sp.network(Dense), X, backward=False)
