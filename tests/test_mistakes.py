"""What users get wrong most likely. Each message names the argument and what was given, and says what is allowed or what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import sigprop as sp
from sigprop.cli.model import settings
from sigprop.cli.target import find
from sigprop.inputs import load

X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
MODEL = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(3)])
NET = sp.network(MODEL, X)
PARAMS = NET.init(jax.random.key(0))
TARGETS = np.zeros(4, np.float32)
KEYS = "run.zarr"


class Net(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(8, 16, rngs=rngs)

    def __call__(self, x):
        return self.layer(x)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(16)(x)


def loss(y, targets):
    return jnp.mean((y[:, 0] - targets) ** 2)


def apply(params, x):
    return x @ params["w"]


def init(key):
    return {"w": jax.random.normal(key, (8, 4))}


def moments(**options):
    given = {"loss": loss, "batch": (X, TARGETS), **options}
    return sp.adam_second_moment(NET, given.pop("loss"), given.pop("batch"), **given)


def poisoned():
    x = X.copy()
    x[0, 0] = np.nan
    return x


MISTAKES = {  # what was done: (the call, the argument, what was given, what is allowed or what to do)
    # a model in the place of a network
    "report of a model": (lambda: sp.report(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    "propagate of a model": (lambda: sp.propagate(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    "measure of a model": (lambda: sp.measure(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    "empirical kernel of a model": (lambda: sp.empirical_kernel(MODEL)(PARAMS, X), "net", "Sequential", "sp.network(model, x)"),
    "attention of a model": (lambda: sp.attention_entropy(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    "Adam of a model": (lambda: sp.adam_second_moment(MODEL, loss, (X, TARGETS)), "net", "Sequential", "sp.network(model, x)"),
    "precision of a model": (lambda: sp.precision.analyze(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    "remedy of a model": (lambda: sp.remedy(MODEL, X), "net", "Sequential", "sp.network(model, x)"),
    # making a network
    "linen class": (lambda: sp.network(Linen, X), "model", "Linen is a linen class", "give an instance, Linen(...)"),
    "linen without input": (lambda: sp.network(Linen()), "x", "a linen module", "sp.network(module, x)"),
    "function without init": (lambda: sp.network(apply, X), "model", "apply", "takes init=, key -> params, or params="),
    "numbers for a law": (lambda: sp.network(apply, X, params=PARAMS, laws={"w": 0.1}), "laws", "'w'", "the parameters are"),
    "option of the call": (lambda: sp.network(Net(nnx.Rngs(0)), X, train_mode=True), "options", "train_mode", "takes ['x']"),
    "method": (lambda: sp.network(Net, X, method="encode"), "method", "'encode'", "Net has no"),
    "parameters for init": (lambda: sp.network(apply, X, init=PARAMS), "init", "dict", "a function key -> params"),
    "seed ignored": (lambda: sp.network(lambda rngs: Net(nnx.Rngs(0)), X).laws, "model", "ignores its key", "Draw them from the key"),
    # inputs
    "other features": (lambda: sp.propagate(sp.network(Net), X[:, :5]), "model", "(4, 5)", "dot_general"),
    "one example without batch": (lambda: sp.propagate(NET, X[0]), "x[0]", "rank 1, shape (8,)", "axis 0 is the batch"),
    "NaN": (lambda: sp.propagate(NET, poisoned()), "x[0]", "NaN", "clean or mask"),
    "empty batch": (lambda: sp.propagate(NET, X[:0]), "x[0]", "(0, 8)", "at least one example"),
    "integers": (lambda: sp.propagate(sp.network(Net), np.ones((4, 8), int)), "x[0]", "int32", "Pass floating numbers"),
    "list": (lambda: sp.network(Net, [[1.0, 2.0]]), "x[0]", "a scalar", "the batch on axis 0"),
    "another second input": (lambda: sp.infinite_kernel(NET)(X, X[:, :5]), "x2", "(5,)", "(8,)"),
    # measuring
    "few seeds": (lambda: sp.measure(NET, X, seeds=4), "seeds", "4 given", "at least 8"),
    "text for seeds": (lambda: sp.measure(NET, X, seeds="64"), "seeds", "'64'", "a whole number of 8 or more"),
    "number for a key": (lambda: sp.measure(NET, X, key=0), "key", "0 given", "jax.random.key(0)"),
    "targets without a loss": (lambda: sp.report(NET, X, y=TARGETS), "y", "without a loss", "give loss="),
    "panel": (lambda: sp.report(NET, X, details=["adams"]), "details", "'adams'", "histograms, attention, adam"),
    # kernels
    "parameterization": (lambda: sp.infinite_kernel(NET, "NTK"), "parameterization", "'NTK'", "standard, ntk"),
    "rate of no parameter": (lambda: sp.infinite_kernel(NET, learning_rates={"bias": 1.0}), "learning_rates", "'bias'", "layers_0/bias"),
    "inputs before parameters": (lambda: sp.empirical_kernel(NET)(X, PARAMS), "params", "ndarray", "parameters come first, as net.init("),
    "no parameters": (lambda: sp.empirical_kernel(NET)(X), "params", "ndarray", "as net.init(jax.random.key(0))"),
    "kernel that is not square": (lambda: sp.spectra.spectrum(np.zeros((3, 4))), "kernel", "(3, 4)", "give [n, n]"),
    "kernel that is singular": (lambda: sp.spectra.check_regular(np.ones((3, 3))), "kernel", "rank is 1 of 3", "add a ridge"),
    "arrays for kernels": (lambda: sp.dynamics.gradient_flow(np.eye(4), TARGETS[:, None], np.eye(4), np.eye(4), t=1.0), "train", "ndarray",
                           "kernel(x1, x2) returns"),
    "network for a kernel": (lambda: sp.gram(NET, X, out=KEYS), "kernel_fn", "Network", "(x1, x2=None) -> sp.Kernel"),
    "no stored kernel": (lambda: sp.open_gram("none.zarr"), "out", "none.zarr", "sp.gram(kernel_fn, x, out=...)"),
    # Adam, attention, precision, sparsity
    "optimizer without moments": (lambda: moments(optimizer="sgd"), "optimizer", "'sgd'", "no second moment"),
    "option of another library": (lambda: moments(beta1=0.9), "beta1", "adam has no such option", "b1, b2, eps, lr"),
    "minibatch larger than the batch": (lambda: moments(batch_size=64), "batch_size", "64", "1 to 4"),
    "labels of other examples": (lambda: moments(batch=(X, TARGETS[:3])), "targets[0]", "(3,)", "4 examples"),
    "loss by example": (lambda: moments(loss=lambda y, t: (y[:, 0] - t) ** 2), "loss", "shape=(4,)", "average or sum over examples"),
    "loss without targets": (lambda: moments(loss=lambda y: jnp.mean(y)), "loss", "targets of shapes [(4,)]", "takes 1 positional"),
    "advice on a network": (lambda: sp.adam_advice(NET), "moments", "Network", "sp.adam_second_moment returns"),
    "network for a builder": (lambda: sp.coordinate_check(NET, [64, 128], loss, (X, TARGETS)), "build", "Network", "width -> (network"),
    "attention of a perceptron": (lambda: sp.attention_entropy(NET, X), "model", "no softmax over tokens", "give a model with attention"),
    "unknown format": (lambda: sp.precision.analyze(NET, X, dtypes=["int3"]), "dtype", "'int3'", "int8, int4, float16"),
    "one format": (lambda: sp.precision.analyze(NET, X, dtypes="int8"), "dtypes", "'int8'", "give a list, ['int8']"),
    "percent kept": (lambda: sp.sparse.thresholded(NET, kept=10), "kept", "10", "above 0 and at most 1"),
    # initializers and theory
    "percent kept of an initializer": (lambda: sp.init.he(kept=10), "kept", "10", "at most 1"),
    "activation": (lambda: sp.init.gain("swishh"), "activation", "'swishh'", "or give the function"),
    "negative variance": (lambda: sp.meanfield.fixed_point("tanh", -1.0), "weight_variance", "-1.0", "at least 0"),
    "no depth": (lambda: sp.meanfield.trajectory("tanh", 1.0, 0.0, depth=0), "depth", "0", "a whole number of 1 or more"),
    "target of a remedy": (lambda: sp.remedy(NET, X, target="forwards"), "target", "'forwards'", "'forward', 'backward'"),
    "parameter to keep": (lambda: sp.remedy(NET, X, keep=["head/kernel"]), "keep", "'head/kernel'", "the weights are ['layers_0/kernel'"),
    # studies
    "grid without values": (lambda: sp.studies.run({"a": []}, lambda a: {"y": a}, KEYS), "grid", "a has no values", "give one or more"),
    "number for values": (lambda: sp.studies.run({"a": 1.0}, lambda a: {"y": a}, KEYS), "grid", "1.0", "give a list"),
    "grid that lacks a parameter": (lambda: sp.studies.run({"a": [1.0]}, lambda a, b: {"y": a}, KEYS), "grid", "b", "add a list of values"),
    "function without a result": (lambda: sp.studies.run({"a": [1.0]}, lambda a: None, KEYS), "fn", "NoneType", "return a dictionary"),
    "initializer of a study": (lambda: sp.studies.depthwise_conv.Study(k=5, init="kaiming"), "init", "'kaiming'", "'he', 'xavier'"),
    # the command
    "no file": (lambda: find("nofile.py:Net", {}), "TARGET", "nofile.py", "give a path from"),
    "no colon": (lambda: find("model", {}), "TARGET", "'model'", "PATH.py:factory"),
    "name in a module": (lambda: find("sigprop.nn:MPL", {}), "TARGET", "'MPL'", "did you mean 'MLP'"),
    "setting": (lambda: settings(["width"], "--set"), "--set", "'width'", "name=value"),
    "data": (lambda: load("mnist", 4, None, 64), "--input", "'mnist'", "digits, photo, tokens"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_answered(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, argument, given, way = MISTAKES[mistake]
    with pytest.raises(sp.SigpropError) as caught:
        call()
    message = str(caught.value)
    assert argument in message.partition(" given")[0].partition(";")[0] and given in message and way in message, message


def test_there_are_fifty():
    assert len(MISTAKES) >= 50
