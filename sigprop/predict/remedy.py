"""Gains of weights that mend an initialization, from the prediction alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import jax
import numpy as np

from sigprop.arrays import concrete
from sigprop.empirical import parts
from sigprop.engine import RULES
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_number
from sigprop.network import Law, Network, check_inputs, check_network, parameter_paths
from sigprop.network.checks import check_choice
from sigprop.predict.balance import TARGETS, Weight, balanced, found_weights
from sigprop.predict.remedied import Layer, Remedy, output_variances


def remedy(net: Network, *x: Any, target: str = "forward", variance: float = 1.0, growth: float = 1.0, keep: Sequence[str] = (),
           rules: Mapping[str, Any] = RULES) -> Remedy:
    """Rescale each weight so that its output, or what it makes of a perturbation, has the size that is asked for.

    Weights are taken in the order in which the model uses them, each with those before it rescaled, and the size of its output on ``x`` is
    predicted, so that one interpretation of the model finds all gains: what :func:`sigprop.lsuv` measures (Mishkin & Matas 2016), and what
    AutoInit (Bingham & Miikkulainen 2021) estimates layer by layer, here for any model that can be predicted. The variance is that over
    the parameters, before the bias, averaged over examples, sites and channels.

    - ``"forward"``: the output of each weight has ``variance``.
    - ``"critical"``: chi_1 = 1. A small perturbation keeps its mean square from the output of one weight to that of the next: for a dense
      layer sigma_w² E[f'(z)²] = 1 (Poole et al. 2016; Schoenholz et al. 2017, equation 8), here at the variance that the signal
      has rather than at a fixed point, and whatever lies between two weights. It starts as noise on each input, as large as the input and
      independent of all others, or as an independent copy of what integers look up in an embedding.
    - ``"backward"``: the same for its sum of squares over units, sites included, in place of their mean: the Frobenius norm of a
      Jacobian is that of its transpose, so that E[g²] of the gradients is the same at the output of each weight of a chain (He et al.
      2015, section 2.2), exactly so where examples are equally large.
    - ``"mean"``: the geometric mean of the gains of ``"forward"`` and ``"backward"``, which for linear layers has variance
      1/sqrt(fan-in fan-out), close to :func:`sigprop.init.xavier`.

    The first weights, which meet ``x`` themselves, and the last, which no other weight follows, always have ``variance``: the one before
    the first and the one after the last are not the model's, so that neither a perturbation nor a gradient sets their scale.

    **Residual sums.** With ``variance`` at the end of each of B branches a stream grows to B + 1 times its size, and no gain of weights
    can keep it flat, since the identity has no weight. The last weight of each branch therefore gets ``growth * variance / B``, B counting
    the branches of the whole model, so that all together they add ``growth`` times ``variance`` to a stream, at any depth: what GPT-2
    (1/sqrt(2 layers) for output weights), Fixup and T-Fixup do by depth alone. Behind a normalization of the sum (post-norm) it is this
    same rule that keeps the gradient of the stream, which each norm divides by its growth, within a constant factor, as DeepNorm does. A
    projected shortcut has ``variance``. Branches that end in a normalization of their own have no last weight.

    Embeddings, biases, scales, and weights that are not multiplied with the signal directly (normalized, masked or factorised ones) keep
    their initializers; of a weight that is used several times, as in a recurrent network, the first use that is not zero counts.

    Args:
        net: from :func:`sigprop.network`.
        x: inputs, batch on axis 0; by default those that ``net`` was made with.
        target: one of the above.
        variance: above 0.
        growth: above 0.
        keep: paths of weights to leave as they are, such as heads that start at 0 on purpose.
        rules: table of primitive rules, to extend the interpreter.

    Returns:
        A :class:`Remedy`: gains, the network with them (``.network``), its parameters (``.params(key)``), ``.laws``, ``.initializers``, the
        predictions before and after, and ``.measured()``; it prints as a table.

    Raises:
        InvalidInput: for unusable arguments and inputs, a model without such weights, and weights that no gain can mend: those that
            start at 0, that nothing reaches, or that no perturbation passes.
        MissingRule, Unsound: where the model cannot be predicted, naming the line.
    """
    x = x or check_network(net).example
    check_network(net)
    _check(target, variance, growth, x)
    found = found_weights(net, float(variance), float(growth), *x)
    paths = parameter_paths(net.abstract_params)
    kept = [keep] if isinstance(keep, str) else list(keep)
    for path in kept:
        if path not in paths:
            names = [*dict.fromkeys(paths[w.site.leaf] for w in found)]
            raise InvalidInput(f"keep: there is no parameter {path!r}; the weights are {names}")
    chosen = [w for w in found if paths[w.site.leaf] not in kept]
    if not chosen:
        raise InvalidInput(f"net: no weight of {net.name} is multiplied with the signal directly{' and is not kept' if found else ''}, so "
                           "that there is nothing to rescale; normalized, masked and factorised weights and embeddings are not")
    gains = balanced(net, target, chosen, *x, rules=rules)
    _check_gains(net, target, [(paths[w.site.leaf], gain) for w, gain in zip(chosen, gains, strict=True)])
    factors = _factors(net, chosen, gains, *x)
    mended = _rescaled(net, factors, x)
    (before, _), (after, values) = (output_variances(n, [w.site for w in chosen], *x, rules=rules) for n in (net, mended))
    several = {w.site.leaf for w in chosen if w.part}
    names = [paths[w.site.leaf] + (f"[{w.part}]" if w.site.leaf in several else "") for w in chosen]
    layers = [Layer(name, gain, w.aim, bool(w.ends), *rest)
              for name, gain, w, *rest in zip(names, gains, chosen, before, after, values, strict=True)]
    return Remedy(net, mended, x, target, tuple(layers), {paths[w.site.leaf]: factors[w.site.leaf] for w in chosen})


def _check(target: Any, variance: Any, growth: Any, x: tuple[Any, ...]) -> None:
    if not isinstance(target, str):
        raise InvalidInput(f"target: {target!r} is none of {', '.join(map(repr, TARGETS))}; a number goes into variance=")
    check_choice("target", target, TARGETS)
    check_number("variance", variance, above=0.0)
    check_number("growth", growth, above=0.0)
    if not x:
        raise InvalidInput("x: the size of a signal depends on the inputs, give example inputs, remedy(net, x)")
    check_inputs(x)
    if not all(map(concrete, jax.tree.leaves(x))):
        raise InvalidInput("x: traced by jax; find the remedy outside of jit and vmap, its params(key) and network work inside of them")


def _check_gains(net: Network, target: str, found: Sequence[tuple[str, float]]) -> None:
    """Refuse gains of 0 and of infinity, naming the cause and all weights concerned."""
    bad = {path: gain for path, gain in found if not 0 < gain < inf}
    if not bad:
        return
    path, gain = next(iter(bad.items()))
    law = dict(net.laws)[path]
    if gain:
        why = (f"no perturbation of the inputs passes on to it, so that target={target!r} sets no gain: what comes before is not "
               "differentiable or constant")
    elif not np.any(law.variance):
        start = "0" if not np.any(law.mean) else "a constant"
        why = f"it starts at {start}, and no factor of {start} gives its output a variance"
    else:
        why = "nothing that varies reaches it: what comes before starts at 0 or is constant"
    raise InvalidInput(f"net: the target cannot be met at {path!r}: {why}. Give it, or what comes before, another initializer, or leave "
                       f"such weights as they are: keep={list(bad)}")


def _factors(net: Network, chosen: Sequence[Weight], gains: Sequence[float], *x: Any) -> list[Any]:
    """Per parameter leaf what multiplies it: 1 where it is no weight, an array where its layers have gains of their own."""
    leaves = jax.tree.leaves(net.abstract_params)
    factors: list[Any] = [1.0] * len(leaves)
    stacked = {w.site.leaf for w in chosen if w.part}
    for weight, gain in zip(chosen, gains, strict=True):
        if weight.site.leaf not in stacked:
            factors[weight.site.leaf] = gain
    group = [k for k, w in enumerate(chosen) if w.site.leaf in stacked]
    if group:
        drawn = [*jax.tree.leaves(net.init(jax.random.key(0))), *map(np.asarray, jax.tree.leaves(x))]
        masks = parts(net.graph(*x), [chosen[k].site for k in group], drawn)
        for k, mask in zip(group, masks, strict=True):
            leaf = chosen[k].site.leaf
            factors[leaf] = np.where(np.asarray(mask), gains[k], np.broadcast_to(factors[leaf], leaves[leaf].shape))
    return [_squeezed(f) for f in factors]


def _squeezed(factor: Any) -> Any:
    """An array of which axes with equal entries have size 1."""
    for axis in range(np.ndim(factor)):
        one = np.take(factor, [0], axis)
        factor = one if np.array_equal(np.broadcast_to(one, factor.shape), factor) else factor
    return factor


def _rescaled(net: Network, factors: Sequence[Any], x: tuple[Any, ...]) -> Network:
    """The same model with an initializer whose weights are multiplied."""
    def init(key: Any) -> Any:
        leaves, tree = jax.tree.flatten(net.init(key))
        return jax.tree.unflatten(tree, [leaf if np.ndim(f) == 0 and f == 1 else (leaf * f).astype(leaf.dtype)
                                         for leaf, f in zip(leaves, factors, strict=True)])

    declared = None if net.declared is None else [_scaled(d, f) for d, f in zip(net.declared, factors, strict=True)]
    return Network(init, net.apply, net.name, net.root, net.example or x, declared, net.trained)


def _scaled(declared: Any, factor: Any) -> Any:
    if isinstance(declared, Law):
        return replace(declared, mean=declared.mean * factor, variance=declared.variance * factor**2)
    return declared if declared is None or (np.ndim(factor) == 0 and factor == 1) else declared * factor
