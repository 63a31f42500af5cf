"""Predicted sqrt(nu_hat) of Adam against what optax holds, leaf by leaf, on digits: a ReLU network, minibatches, frozen parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich import box
from rich.console import Console
from rich.table import Table

import sigprop as sp
from sigprop import inputs
from sigprop.empirical import loss_gradients

EXAMPLES, MINIBATCH, STEPS, SEEDS = 16, 4, 5, 128
B2 = 0.999


def cross_entropy(y, labels):
    return optax.softmax_cross_entropy_with_integer_labels(y, labels).mean()


def held(net, x, labels, key):
    """Mean over entries of nu_hat after ``STEPS`` gradients."""
    params, rule = net.init(key), optax.scale_by_adam(b2=B2)
    state = None
    for step in range(STEPS):
        chosen = jax.random.choice(jax.random.fold_in(key, step), EXAMPLES, (MINIBATCH,), replace=False)
        grads = loss_gradients(net, cross_entropy, params, (x[chosen],), (labels[chosen],))
        state = rule.update(grads, rule.init(grads) if state is None else state)[1]
    return {path: jnp.mean(nu) / (1 - B2**STEPS) for path, nu in state.nu.items()}


def main():
    x = inputs.load("digits", EXAMPLES, None, 2)
    labels = np.arange(EXAMPLES, dtype=np.int32) % 10  # scikit-learn's first digits are 0, 1, ..., 9, 0, ...
    for name, activation in (("ReLU", nn.relu), ("tanh", jnp.tanh)):
        model = nn.Sequential([nn.Dense(256), activation, nn.Dense(256), activation, nn.Dense(10)])
        net = sp.network(model, x)
        predicted = sp.adam_second_moment(net, cross_entropy, (x, labels), batch_size=MINIBATCH, steps=STEPS, b2=B2)
        keys = jax.random.split(jax.random.key(0), SEEDS)
        found = jax.jit(lambda keys: jax.lax.map(lambda k: held(net, jnp.asarray(x), jnp.asarray(labels), k), keys, batch_size=8))(keys)
        table = Table(title=f"{name}: sqrt(nu_hat) after {STEPS} steps, optax over {SEEDS} seeds", title_justify="left", box=box.MARKDOWN)
        for column in ("parameter", "predicted", "optax ± s.e.", "ratio"):
            table.add_column(column, justify="left" if column == "parameter" else "right")
        for path, leaf in predicted.items():
            values = np.asarray(found[path], float)
            root, error = values.mean() ** 0.5, values.std(ddof=1) / SEEDS**0.5 / values.mean() ** 0.5 / 2
            table.add_row(path, f"{leaf.nu_hat**0.5:.4e}", f"{root:.4e} ± {error / root:.1%}", f"{root / leaf.nu_hat**0.5:.3f}")
        Console(width=100).print(table)


if __name__ == "__main__":
    main()
