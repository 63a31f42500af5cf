"""The second moments that Adam and its relatives hold at initialization, predicted."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from sigprop.arrays import concrete
from sigprop.engine import RULES, Context, Unknown, Value
from sigprop.errors import InvalidInput, SigpropError, Unsound
from sigprop.network import Network, check_inputs, parameter_paths
from sigprop.predict import optimizers
from sigprop.predict.cotangent import Loss, as_field, output_gradient, reduction
from sigprop.predict.gradients import gradient_values, squares
from sigprop.predict.signal import interpretation
from sigprop.types import METHODS, Note


class LeafMoment(NamedTuple):
    """Predictions for one parameter; averages over its entries where nothing else is said.

    Attributes:
        mean_square: E[g²] of the gradient of the whole batch.
        noise: what minibatches add to it.
        second_moment: their sum, E[g²] of one minibatch.
        nu: what the optimizer stores after the given steps; for Adafactor the product of its factors on average.
        nu_hat: what its step divides by, under a root; for Adam with bias correction.
        update: root mean square of the first update, for normal gradients.
        update_error: how much other laws of the gradient may change it where epsilon matters, in the infinite-width limit.
        relative_update: the same over the root mean square of the weights; infinite where they are zero.
        starved: whether ``nu_hat`` lies below epsilon: the step then shrinks with the gradient, as that of SGD does.
        entries: E[g²] of one minibatch, shaped like the parameter.
        error: estimated absolute error of ``second_moment``.
        method: how it was got; the reason in place of it where it is not known, and all numbers are NaN.
    """

    mean_square: float
    noise: float
    second_moment: float
    nu: float
    nu_hat: float
    update: float
    update_error: float
    relative_update: float
    starved: bool
    entries: np.ndarray
    error: float
    method: str


@dataclass(frozen=True, eq=False)
class SecondMoments(Mapping[str, LeafMoment]):
    """What :func:`adam_second_moment` returns: a mapping by path of the trained parameters, which prints as a table.

    Attributes:
        tree: like the parameters, with ``second_moment`` for each leaf, zero where training does not move it.
        leaves: by path.
        optimizer: its name and options.
        steps: after which ``nu`` is.
    """

    tree: Any
    leaves: Mapping[str, LeafMoment] = field(repr=False)
    optimizer: optimizers.Optimizer
    steps: int

    def __getitem__(self, path: str) -> LeafMoment:
        if path not in self.leaves:
            raise KeyError(f"{path!r}: no such trained parameter; there are {list(self.leaves)}")
        return self.leaves[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.leaves)

    def __len__(self) -> int:
        return len(self.leaves)

    @property
    def starved(self) -> list[str]:
        """Paths of the parameters whose step epsilon rules."""
        return [path for path, leaf in self.leaves.items() if leaf.starved]

    def factors(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """Adafactor's row and column means of E[g²]: over the largest axis, and over the second largest, as optax stores them.

        Raises:
            InvalidInput: for a parameter with fewer than two axes.
        """
        entries = self[path].entries
        if entries.ndim < 2:
            raise InvalidInput(f"path: {path!r} has shape {entries.shape}; factors take two axes")
        *_, second, largest = np.argsort(entries.shape, kind="stable")
        return entries.mean(largest), entries.mean(second)

    def __str__(self) -> str:
        stream = io.StringIO()
        Console(file=stream, width=140, color_system=None, force_terminal=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def __rich__(self) -> Table:
        title = f"{self.optimizer.name} ({', '.join(f'{k}={v:g}' for k, v in self.optimizer.options.items())}), steps={self.steps}"
        table = Table(title=title, title_justify="left", header_style="bold")
        for k, name in enumerate(("parameter", "shape", "rms g", "of it noise", "sqrt nu", "sqrt nu_hat", "first update", "update/weight",
                                  "error", "")):
            table.add_column(name, justify="right" if 1 < k < 9 else "left", no_wrap=k < 9)
        for path, leaf in self.leaves.items():
            relative = leaf.error / leaf.second_moment / 2 if leaf.second_moment else 0.0
            share = leaf.noise / leaf.second_moment if leaf.second_moment else 0.0
            remark = "below eps: SGD" if leaf.starved else "" if leaf.method in METHODS else leaf.method
            table.add_row(path, str(leaf.entries.shape).replace(" ", ""), f"{leaf.second_moment**0.5:.3e}", f"{share:.1%}",
                          f"{leaf.nu**0.5:.3e}", f"{leaf.nu_hat**0.5:.3e}", f"{leaf.update:.3e}", f"{leaf.relative_update:.2e}",
                          f"{relative:.1g}", remark, style="red" if leaf.starved else "")
        return table

    __repr__ = __str__


def adam_second_moment(net: Network, loss: Loss, batch: Any, *, optimizer: str = "adam", steps: int = 1, batch_size: int | None = None,
                       rules: Mapping[str, Any] = RULES, **options: float) -> SecondMoments:
    """Predict E[g²] of every trained parameter for the gradient ``g`` of a loss at initialization, and what an optimizer makes of it.

    In the infinite-width limit ``dL/dy`` is independent of the weights that the backward pass uses (:mod:`sigprop.predict.cotangent`).
    The batch is given, in concrete numbers; expectations are over draws of the parameters, and over minibatches drawn from the batch
    without repetition, a fresh one at each step with the parameters as they are.

    Args:
        net: from :func:`sigprop.network`.
        loss: ``loss(y, *targets)``, a real scalar; ``y`` is the network's output, its first leaf if it is a tree.
        batch: ``(x, *targets)``, each with the examples on axis 0, where ``x`` may be a tuple of several inputs; or ``x`` alone.
        optimizer: ``"adam"``, ``"adamw"``, ``"rmsprop"`` or ``"adafactor"``.
        steps: number of steps that have filled the state.
        batch_size: of a minibatch, by default all examples. Examples must then enter the loss as a mean or a sum.
        rules: table of primitive rules, to extend the interpreter.
        options: of the optimizer, named as in optax: ``b1``, ``b2``, ``eps``, ``lr``, ``weight_decay``, ``decay``; ``lr`` is the rate.

    Returns:
        Predictions by path; ``.tree`` is a pytree like the parameters of E[g²], averaged over the entries of each. What cannot be
        predicted is NaN, with the reason.

    Raises:
        InvalidInput: for unusable inputs, targets, losses or options, and optimizers that hold no second moment.
        MissingRule, Unsound: where the output cannot be predicted, naming the line.
    """
    rule = optimizers.optimizer(optimizer, options)
    x, targets = _unpacked(batch)
    examples = jax.tree.leaves(x)[0].shape[0]
    size = _checked(steps, batch_size, targets, examples)
    found = interpretation(net, *x, rules=rules)
    graph = net.graph(*x)
    aval = graph.avals[graph.outputs[0]]
    if not jnp.issubdtype(aval.dtype, jnp.floating):
        raise InvalidInput(f"net: its output has dtype {aval.dtype}; a loss has no gradient with respect to it")
    if not aval.shape or aval.shape[0] != examples:
        raise InvalidInput(f"net: its output has shape {aval.shape}; axis 0 must hold the {examples} examples of the batch")
    output = found.values[graph.outputs[0]]
    if isinstance(output, Unknown):
        raise output.reason
    l = output_gradient(found.context, output, loss, targets)
    kind = "mean" if size == examples else reduction(loss, aval.shape, targets)
    if kind == "joint":
        raise Unsound("loss: it is neither the mean nor the sum of a loss of single examples, or its targets broadcast against the output; "
                      "the noise of minibatches is not defined: leave batch_size out")

    def pulled(second: np.ndarray, key: str) -> dict[str, Value]:
        field = as_field(found.context, second, aval.shape, key, l.note)
        return gradient_values(found.context, net, found.params, *x, cotangent=field)[1]

    whole = pulled(l.together, "together")
    own = pulled(l.apart, "apart") if size < examples else whole
    paths = parameter_paths(net.abstract_params)
    shapes = dict(zip(paths, (leaf.shape for leaf in jax.tree.leaves(net.abstract_params)), strict=True))
    weights = dict(zip(paths, found.params, strict=True))
    made = _Maker(found.context, rule, steps, size, examples, kind)
    leaves = {path: made.leaf(whole[path], own[path], weights[path], shapes[path]) for path in whole}
    tree = jax.tree.structure(net.abstract_params)
    return SecondMoments(jax.tree.unflatten(tree, [leaves[p].second_moment if p in leaves else 0.0 for p in paths]), leaves, rule, steps)


class _Maker(NamedTuple):
    context: Context
    optimizer: optimizers.Optimizer
    steps: int
    size: int
    examples: int
    kind: str

    def leaf(self, whole: Value, own: Value, weight: Value, shape: tuple[int, ...]) -> LeafMoment:
        try:
            joint, single, weights = (squares(self.context, v) for v in (whole, own, weight))
        except SigpropError as error:
            nan = float("nan")
            return LeafMoment(nan, nan, nan, nan, nan, nan, nan, nan, False, np.full(shape, nan), nan, str(error))
        full, apart = (np.broadcast_to(np.asarray(v.array, float), shape) for v in (joint, single))
        signal, noise = self._minibatch(full, apart)
        entries = signal + noise
        second, weight_square = float(np.mean(entries)), float(np.mean(weights.array))
        update, spread = self.optimizer.first_step(entries, weight_square)
        nu_hat = float(self.optimizer.corrected(second, self.steps))
        note = Note.largest([joint.note, single.note])
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = float(np.divide(update, weight_square**0.5))
        return LeafMoment(float(np.mean(full)), float(np.mean(noise)), second, float(self.optimizer.state(second, self.steps)), nu_hat,
                          update, spread, relative, nu_hat**0.5 < self.optimizer.floor and self.optimizer.name != "adafactor", entries,
                          second * float(note.error), METHODS[note.how])

    def _minibatch(self, full: np.ndarray, apart: np.ndarray) -> tuple[np.ndarray, Any]:
        """The part of the mean gradient in E[g²] of a minibatch, and that of the noise.

        A mean of ``size`` out of ``n`` numbers drawn without repetition has variance ``s²/size (n - size)/(n - 1)`` (Cochran 1977, 2.3),
        with ``s²`` that of the numbers.
        """
        n, size = self.examples, self.size
        if size == n:
            return full, 0.0 * full
        unit = 1.0 if self.kind == "mean" else 1.0 / n  # of the whole gradient as a mean over examples
        mean = full * unit**2
        spread = np.maximum(n * apart * unit**2 - mean, 0.0) * (n - size) / (n - 1) / size
        scale = 1.0 if self.kind == "mean" else size**2
        return mean * scale, spread * scale


def _unpacked(batch: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    x, *targets = batch if isinstance(batch, tuple | list) and len(batch) else (batch,)
    x = tuple(x) if isinstance(x, tuple | list) else (x,)
    if not all(map(concrete, jax.tree.leaves((x, targets)))):
        raise InvalidInput("batch: traced; the loss is evaluated on concrete numbers: call outside of jax.jit and jax.vmap")
    check_inputs(x)
    return x, tuple(targets)


def _checked(steps: int, batch_size: int | None, targets: Sequence[Any], examples: int) -> int:
    for name, value, most in (("steps", steps, None), ("batch_size", examples if batch_size is None else batch_size, examples)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1 or (most is not None and value > most):
            raise InvalidInput(f"{name}: {value!r} is not a whole number from 1" + (f" to {most}, the examples given" if most else ""))
    for path, target in jax.tree_util.tree_leaves_with_path(list(targets)):
        name = "targets" + jax.tree_util.keystr(path)
        shape = np.shape(target)
        if not shape or shape[0] != examples:
            raise InvalidInput(f"{name}: shape {shape}, but there are {examples} examples; close the loss over what is not one per example")
        if jnp.issubdtype(jnp.result_type(target), jnp.floating) and not np.all(np.isfinite(np.asarray(target, float))):
            raise InvalidInput(f"{name}: has NaN or infinite entries")
    return int(examples if batch_size is None else batch_size)
