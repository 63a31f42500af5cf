"""The comparison with other tools, into the README. What this package and neural-tangents can do is found by trying; the rest is from the
sources named.

    python scripts/comparison.py                 on the terminal; --readme: into the README
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from readme import put, table

import sigprop as sp

MARKS = "<!-- comparison table: written by scripts/comparison.py -->", "<!-- end of comparison table -->"
X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
TOKENS = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
TOOLS = ("sigprop", "neural-tangents", "dks", "AutoInit", "mup", "DeepScaleLM", "torch.func")


def net():
    return sp.network(nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(2)]), X)


def stax():
    return sp.interop.neural_tangents.load().stax


def finite(value) -> bool:
    return bool(np.all(np.isfinite(np.asarray(value, float))))


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Dense(16)(x)))


TRIED: dict[str, Callable[[], bool]] = {  # row: whether this package can
    "infinite-width NNGP and NTK": lambda: finite(sp.infinite_kernel(net())(X).ntk),
    "empirical NTK": lambda: finite(sp.empirical_kernel(net())(net().init(jax.random.key(0)), X).ntk),
    "variance of every layer, predicted": lambda: finite(sp.propagate(net(), X).second_moment),
    "gradient of every layer, predicted": lambda: finite(sp.propagate(net(), X).grad_variance),
    "batch norm on the batch": lambda: finite(sp.propagate(sp.network(Normed(), X), X, backward=False).second_moment),
    "softmax attention at 1/√d": lambda: finite(sp.propagate(sp.network(nn.MultiHeadDotProductAttention(2), TOKENS), TOKENS,
                                                             backward=False).second_moment),
    "Adam's second moments": lambda: finite([m.second_moment for m in sp.adam_second_moment(net(), jnp.sum, X).values()]),
    "int8 and fp16 ranges": lambda: finite(sp.precision.analyze(net(), X, dtypes=["int8"], backward=False).scale.sel(node="layers_0")),
    "error beside each number": lambda: finite(sp.propagate(net(), X).error),
}
PEER: dict[str, Callable[[], str]] = {  # the same of neural-tangents, where its layers decide
    "batch norm on the batch": lambda: "yes" if hasattr(stax(), "BatchNorm") else "no",
}
KNOWN: dict[str, tuple[str, ...]] = {  # row: neural-tangents, dks, AutoInit, mup, DeepScaleLM, torch.func
    "takes": ("networks rewritten in `stax`", "activations and weights of your model (JAX, PyTorch, TensorFlow)", "Keras models",
              "PyTorch modules with base shapes", "formulas for parts of transformers", "PyTorch functions"),
    "infinite-width NNGP and NTK": ("yes", "no", "no", "no", "no", "no"),
    "empirical NTK": ("yes, of any JAX function", "no", "no", "no", "no", "yes, a tutorial"),
    "variance of every layer, predicted": ("through the kernel of a part", "Q and C maps", "yes, mean and variance",
                                           "its order in the width", "of transformers", "no"),
    "gradient of every layer, predicted": ("no", "no", "no", "its order in the width", "of transformers", "no"),
    "batch norm on the batch": ("", "no", "yes", "-", "no", "-"),
    "softmax attention at 1/√d": ("no, at 1/d", "no", "no", "asks for 1/d", "yes", "-"),
    "Adam's second moments": ("no", "no", "no", "learning rates by width", "no", "no"),
    "int8 and fp16 ranges": ("no", "no", "no", "no", "no", "no"),
    "error beside each number": ("no", "no", "no", "no", "no", "no"),
    "does what this one does not": ("training with momentum", "activations shaped so that deep nets without skips train",
                                    "sets the weights of a model in one call", "optimizers that carry hyperparameters across widths",
                                    "recipes tried on 1000 layers", "any derivative in PyTorch"),
}
OURS = {"takes": "Flax nnx and linen modules, JAX functions, as they are", "does what this one does not": ""}


def rows() -> list[list[str]]:
    """The head, and one row for each question.

    Raises:
        RuntimeError: naming a claim about this package that does not hold.
    """
    found = [["", *TOOLS]]
    for name, others in KNOWN.items():
        if name in TRIED and not TRIED[name]():
            raise RuntimeError(f"{name}: claimed, but it gives no finite numbers")
        peer = PEER[name]() if name in PEER else others[0]
        found.append([name, OURS.get(name, "yes"), peer, *others[1:]])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the table into the README")
    found = rows()
    text = table(found)
    print(text)
    if parser.parse_args().readme:
        put(text, MARKS, [row[0] for row in found[1:]])


if __name__ == "__main__":
    main()
