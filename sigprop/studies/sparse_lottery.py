"""Sparse networks: a random mask that keeps p multiplies E[z²] by p in every layer, which weights of variance 2 / (p n) make up for.

A mask of the largest magnitudes keeps more: p + 2 t phi(t) with t = Phi^{-1}(1 - p/2) of normal weights. Winning tickets, which are found
by pruning in rounds and rewinding (Frankle et al. 2020), are trained on digits beside two controls: the same masks on weights that are
drawn anew, and the rewound weights under random masks of the same shares in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import empirical, inputs, nn, sparse
from sigprop import init as initializers
from sigprop import predict as predicted
from sigprop.init.checks import check_choice, check_number, check_whole
from sigprop.init.initializer import Scaled
from sigprop.network import Network, network
from sigprop.sparse.masks import changed
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, averaged, same
from sigprop.studies.study import initializer, unit_inputs
from sigprop.studies.training import cross_entropy, fitted


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """ReLU networks of equal widths with masks on all kernels.

    Attributes:
        init: of the dense network.
        kept: fractions kept.
        correction: ``"share"``, weights drawn larger by what the mask takes away, or ``"none"``.
        depth, width: of the networks.
        rounds: of pruning a network of two hidden layers that classifies scikit-learn's digits.
        fraction: of the remaining weights that a round leaves out.
        units: of its hidden layers.
        steps, rewind: of Adam in a round, 64 images each, and the one that weights are rewound to.
        tickets: draws of the weights that are pruned, three or more.
    """

    init: str = "he"
    kept: tuple[float, ...] = (0.5, 0.1)
    correction: str = "share"
    depth: int = 5
    width: int = 128
    rounds: int = 8
    fraction: float = 0.35
    units: int = 64
    steps: int = 300
    rewind: int = 20
    tickets: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"rounds": 1, "units": 1, "steps": 1, "rewind": 0, "tickets": 3}.items():
            check_whole(name, getattr(self, name), least)
        check_choice("correction", self.correction, ("share", "none"))
        for fraction in self.kept:
            check_number("kept", fraction, high=1.0, above=0.0)


PRESETS = {"quick": Config(), "paper": Config(kept=(0.5, 0.2, 0.1, 0.05), depth=10, width=256, rounds=12, fraction=0.25, units=128,
                                               steps=400)}
_KNOWN = {0.5: 0.9287, 0.2: 0.6498, 0.1: 0.4393, 0.05: 0.2791, 0.01: 0.0845}
_KINDS = ("random", "magnitude")
_TRAINED = ("ticket", "other weights", "random mask")
_SEEN = 1400  # images that are trained on; the others count for accuracies


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``kind`` of mask, ``kept`` and ``layer``: E[z²], ``predicted`` and ``uncertain``, ``measured`` and ``corrected``; ``own``, the
    fraction of the variance that the largest weights leave, of those drawn here (truncated normal ones); ``followed``, E[z²]
    ``(fraction, step)`` of two layers that keep their largest weights, normal ones; ``blocks``, E[z²] ``(layer)`` where two of every four
    weights are kept; ``accuracy`` on digits not seen ``(ticket, trained, round)``, and ``left``, the fraction of weights in that round."""
    def point(kind: str, kept: float) -> dict[str, Any]:
        right = _pruned(config, kind, kept, corrected=config.correction == "share")
        corrected = _layers(predicted.propagate(right, *right.example, backward=False))
        return {**_compared(config, _pruned(config, kind, kept)), "corrected": corrected.second_moment.values}

    found = frame.over({"kind": list(_KINDS), "kept": config.kept}, point, out, "sparse_lottery",
                       frame.layers("predicted", "uncertain", "corrected", "measured", "stderr"))
    dense = _dense(config)
    halved: dict[str, Any] = {f"blocks{_ending(n)}": ("layer", v) for n, v in _compared(config, _halved(config)).items()}
    tickets = frame.over({"ticket": range(config.seed, config.seed + config.tickets)}, partial(_ticket, config), out,
                         "sparse_lottery_tickets", {"accuracy": ("trained", "round"), "left": ("round",)})
    followed = [_compared(config, _beyond(config, kept)) for kept in _KNOWN]
    halved |= {f"followed{_ending(n)}": (("fraction", "step"), [one[n] for one in followed]) for n in followed[0]}
    shares = {"own": ("kept", [_own_share(dense, kept) for kept in config.kept])}
    return found.merge(tickets).assign_coords(trained=list(_TRAINED), fraction=list(_KNOWN)).assign(halved | shares)


def _ending(name: str) -> str:
    return "" if name == "predicted" else f"_{name}"


def _compared(config: Config, net: Network) -> dict[str, np.ndarray]:
    """E[z²] of its layers, predicted and measured."""
    one = _layers(predicted.propagate(net, *net.example, backward=False))
    other = _layers(empirical.measure(net, *net.example, seeds=config.seeds, key=config.key, backward=False))
    return {"predicted": one.second_moment.values, "uncertain": one.error.values, "measured": other.second_moment.values,
            "stderr": other.second_moment_stderr.values}


def _beyond(config: Config, kept: float) -> Network:
    """Two layers that keep their largest weights, normal ones."""
    init = initializers.he(distribution="normal")
    return sparse.thresholded(network(partial(_perceptron, [config.width] * 3, init), unit_inputs((1, config.width), 0)), kept)


def _halved(config: Config) -> Network:
    """Two of every four weights of a unit, at random."""
    net = _dense(config)
    return sparse.masked(net, sparse.mask(sparse.blocks(sparse.random(net, jax.random.key(1)), 4), 0.5))


def _ticket(config: Config, ticket: int) -> dict[str, Any]:
    """Round by round the accuracy of one ticket, and of its two controls."""
    net, x, labels, train = _classifier(config)
    keys = jax.random.split(frame.draw_key(ticket), 4)
    params, other, scores = net.init(keys[0]), net.init(keys[1]), sparse.random(net, keys[2])
    run = partial(train, keys[3])
    accuracy = jax.jit(lambda p: jnp.mean(jnp.argmax(net.apply(p, x[_SEEN:]), -1) == labels[_SEEN:]))
    rounds, start, accuracies = [], None, []
    for found in sparse.iterative_magnitude_pruning(net, run, params, config.rounds, fraction=config.fraction, steps=config.steps,
                                                    rewind=config.rewind):
        start = found.start if start is None else start  # of the dense network
        chance = {path: sparse.mask({path: scores[path]}, float(np.mean(m)))[path] for path, m in found.masks.items()}
        ends = (found.trained, run(other, found.masks, 0, config.steps), run(start, chance, config.rewind, config.steps))
        accuracies.append([float(accuracy(p)) for p in ends])
        rounds.append(found.kept)
    return {"accuracy": np.transpose(accuracies), "left": np.array(rounds)}


@lru_cache(maxsize=1)
def _classifier(config: Config) -> tuple[Network, Any, Any, Any]:
    """A network, all digits and their labels, and ``train(key, params, masks, first, last)``, compiled once for all tickets."""
    x, labels = jnp.asarray(inputs.load("digits", 1797, None, 2)), jnp.asarray(inputs.digit_labels())
    net = network(partial(_perceptron, [64, config.units, config.units, 10], initializer(config.init)), x[:2])

    @jax.jit
    def train(key: Any, params: Any, masks: Any, first: Any, last: Any) -> Any:
        def thin(p: Any) -> Any:
            return changed(lambda path, w: w * masks[path] if path in masks else w, p)

        def cost(p: Any, chosen: Any) -> Any:
            return cross_entropy(net.apply(thin(p), x[chosen]), labels[chosen])

        return thin(fitted(cost, params, key, first, last, count=_SEEN))

    return net, x, labels, train


def _pruned(config: Config, kind: str, kept: float, corrected: bool = False) -> Network:
    net = _dense(config)
    masks = sparse.mask(sparse.random(net, jax.random.key(1)), kept)
    if kind == "random":
        return sparse.masked(sparse.corrected(net, dict.fromkeys(masks, kept)) if corrected else net, masks)
    pruned = sparse.thresholded(net, kept)
    if not corrected:
        return pruned
    gain = _own_share(net, kept) ** -0.5
    return sparse.thresholded(_dense(config, gain), kept)


def _dense(config: Config, gain: float = 1.0) -> Network:
    init, widths = Scaled(initializer(config.init), gain), [config.width] * (config.depth + 1)
    return network(partial(_perceptron, widths, init), unit_inputs((1, config.width), 0))


def _own_share(net: Network, kept: float) -> float:
    """What the largest weights leave of the variance under the law of the kernels, which need not be normal."""
    return sparse.share(next(law for path, law in net.laws.items() if path.endswith("kernel")), kept).variance


def _perceptron(widths: Any, init: Any, rngs: Any) -> Any:
    return nn.MLP(widths, kernel_init=init, rngs=rngs)


def _layers(found: xr.Dataset) -> xr.Dataset:
    return found.sel(node=[n for n in found.node.values if str(n).startswith("layers/")])


def claims(found: xr.Dataset) -> list[Claim]:
    """E[z²] falls as p^L, or as the share of the largest weights to the L; drawn larger it is kept."""
    steps = found.sizes["layer"] - 1
    lines: list[Claim] = []
    for p, known in _KNOWN.items():
        one, name = found.sel(fraction=p), f"largest {p:.0%} of normal weights"
        lines += [same(f"{name}: factor of E[z²] in the second layer", known, one.followed[1] / one.followed[0], 6e-5),
                  agrees(f"{name}: measured over predicted E[z²]", one.followed, one.followed_measured, one.followed_stderr, 0.25)]
    for p in found.kept.values:
        for kind, factor in (("random", float(p)), ("magnitude", float(found.own.sel(kept=p)))):
            one = found.sel(kind=kind, kept=p)
            error = 0.02 if kind == "random" else 2e-6
            # random masks are drawn: a fraction of each unit's weights is left, p of them on average
            lines.append(same(f"{kind}, {p:.0%} kept: factor of E[z²] per layer, in units of what is known", 1,
                              (one.predicted[-1] / one.predicted[0]) ** (1 / steps) / factor, error))
            lines.append(same(f"{kind}, {p:.0%} kept, corrected: factor of E[z²] per layer", 1, (one.corrected[-1] / one.corrected[0]) **
                              (1 / steps), error))
            lines.append(agrees(f"{kind}, {p:.0%} kept: measured over predicted E[z²]", one.predicted, one.measured, one.stderr, 0.25))
    # which inputs a unit keeps is drawn, how many is not
    lines += [same("two of four kept: factor of E[z²] per layer", 0.5, (found.blocks[-1] / found.blocks[0]) ** (1 / steps), 2e-3),
              agrees("two of four kept: measured over predicted E[z²]", found.blocks, found.blocks_measured, found.blocks_stderr, 0.25)]
    return lines + _won(found)


def _won(found: xr.Dataset) -> list[Claim]:
    """Accuracies on images not seen in the last round, differences within each ticket."""
    last = found.accuracy.isel(round=-1)
    name, lines = f"digits, {float(found.left[0, -1]):.1%} kept", []
    for control in _TRAINED[1:]:
        gap = averaged(last.sel(trained="ticket") - last.sel(trained=control))
        lines.append(above(f"{name}: accuracy of tickets less that with {control}", 0, *gap))
    kept = last.sel(trained="ticket") / found.accuracy.isel(round=0).sel(trained="ticket")
    return [*lines, above(f"{name}: accuracy of tickets over that of the dense network", 0.85, *averaged(kept))]


def draw(found: xr.Dataset) -> Any:
    """E[z²] by layer, and accuracies of tickets and of their controls, means and standard errors."""
    figure, (left, right) = drawing.panels(2)
    layer = np.arange(1, found.sizes["layer"] + 1)
    for i, kind in enumerate(found.kind.values):
        for j, p in enumerate(found.kept.values):
            one = found.sel(kind=kind, kept=p)
            drawing.curve(left, layer, one.predicted, one.measured, one.stderr, f"{kind}, {p:.0%}", i * found.sizes["kept"] + j)
    drawing.labelled(left, "layer", "$E[z^2]$", "y")
    for k, name in enumerate(found.trained.values):
        one = found.accuracy.sel(trained=name)
        drawing.curve(right, found.left.mean("ticket"), None, one.mean("ticket"), one.std("ticket", ddof=1) / len(one) ** 0.5, str(name), k)
    drawing.labelled(right, "fraction of weights kept", "accuracy on images not seen", "x")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
