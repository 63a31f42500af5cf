"""Published values of mean-field theory beside ours, as a Markdown table.

    python scripts/theory_table.py [--readme]

Expected values are those of the sources, or their closed forms; ours come from ``sp.meanfield``, ``sp.precision``, ``sp.sparse`` and
``sp.pinn``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from math import comb, e, pi
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from readme import put, table

import sigprop as sp
from sigprop import meanfield as mf
from sigprop import precision

MARKS = "<!-- theory table: written by make table -->", "<!-- end of theory table -->"
TANH = {  # weight and bias variance: q*, c*, chi_1, xi_c, xi_q; the chaotic ones by a trapezoid rule of 200,001 nodes on 24 s.d.
    (1.69, 0.09): (0.607047, 1, 0.939807, 16.108, 1.3377), (6.25, 0.09): (4.07912, 0.122104, 1.58522, 5.1089, 0.68834),
    (16.0, 0.09): (12.60415, 0.0296959, 2.36726, 3.63935, 0.490295), (1.3, 0.05): (0.315316, 1, 0.880164, 7.8341, 1.7852),
    (1.7, 0.05): (0.533076, 1, 0.986741, 74.918, 1.5583), (2.5, 0.05): (1.06396, 0.446804, 1.13352, 11.796, 1.1799),
}
CRITICAL = {0.05: 1.760955, 0.01: 1.424205, 1e-4: 1.086026, 2.01e-5: 1.049996}
CLIPS = {"int8": ((3.92, 40.5), (4.215, 46.0)), "int4": ((2.474, 18.9), (2.899, 24.3))}  # clip in standard deviations, SQNR in dB
WINDOWS = {10: (0.1436, 9.189), 50: (0.6783, 1.558), 100: (0.8236, 1.248)}  # gains of so many layers in float16
PRUNED = {0.5: 0.9287, 0.2: 0.6498, 0.1: 0.4393, 0.05: 0.2791, 0.01: 0.0845}  # share of the variance by share of the weights
COSINES = {1: 0.318310, 2: 0.493731, 3: 0.604826, 10: 0.871536, 50: 0.987862, 100: 0.996423}


class Row(NamedTuple):
    """One value: what, where it is from, what is expected, and how it is computed."""

    what: str
    source: str
    expected: float
    ours: Callable[[], Any]


def rows() -> Iterator[Row]:
    for (weight, bias), expected in TANH.items():
        names = ("q*", "c*", "chi_1", "xi_c", "xi_q")
        for k, (name, value) in enumerate(zip(names, expected, strict=True)):
            yield Row(f"tanh, ({weight:g}, {bias:g}): {name}", "Poole 2016, Schoenholz 2017", value,
                      lambda at=(weight, bias), k=k: point(*at)[k])
    for bias, value in CRITICAL.items():
        yield Row(f"tanh, edge of chaos at bias variance {bias:g}", "Schoenholz 2017", value,
                  lambda bias=bias: mf.critical_weight_variance("tanh", bias))
    for depth, value in COSINES.items():
        yield Row(f"ReLU, correlation of orthogonal inputs after {depth} layers", "Cho & Saul 2009", value,
                  lambda depth=depth: mf.trajectory("relu", 2.0, depth=depth).c[-1])
    for depth in (1, 2, 5, 20):
        product = f"Gaussian linear product, {depth} layers"
        edge = (depth + 1) ** (depth + 1) / depth**depth
        yield Row(f"{product}: mean s²", "Pennington 2017", 1, lambda d=depth: linear(d).mean)
        yield Row(f"{product}: variance of s²", "Pennington 2017", depth, lambda d=depth: linear(d).variance)
        yield Row(f"{product}: edge", "(L+1)^(L+1) / L^L", edge, lambda d=depth: linear(d).edge)
    yield Row("Gaussian linear product, 4 layers: E s⁶", "Fuss-Catalan number", comb(15, 3) / 13, lambda: linear(4).moments(3)[2])
    yield Row("Gaussian linear product, 200 layers: edge / L", "e, Pennington 2017", e, lambda: linear(200).edge / 200.5)
    for kind, variance in (("orthogonal", 10), ("gaussian", 20)):
        yield Row(f"ReLU, He, {kind}, 10 layers: variance of s²", "Pennington 2018: L, 2 L", variance,
                  lambda kind=kind: mf.Jacobian("relu", 2.0, 0.0, 10, kind).variance)
    yield Row("1 + alpha O, linear, alpha² = 1/4: density at s² = 1.25", "arcsine law: 1 / pi", 1 / pi,
              lambda: mf.ResidualJacobian("identity", 1.0, 0.0, 1, 0.5, weights="orthogonal").density([1.25])[0])
    yield Row("linear residual blocks, alpha² = 1 / L, L to infinity: E s⁴", "Tarnowski 2019: 3 e²", 3 * e**2,
              lambda: 2 * blocks(100) - blocks(50))
    yield Row("ReLU, He, residual, 10 blocks, alpha² = 0.1: E s²", "Tarnowski 2019: (1 + alpha²)^10", 1.1**10,
              lambda: mf.ResidualJacobian("relu", 2.0, 0.0, 10, 0.1**0.5).mean)
    yield Row("ReLU, He, 40 layers of 100 units: E‖h‖⁴ / (E‖h‖²)²", "Hanin & Rolnick 2018", 7.04,
              lambda: 1 + mf.finite_width("relu", 2.0, widths=[100] * 40).variance[-1])
    yield Row("batch norm, ReLU, large batch: growth of gradients", "Yang 2019: pi / (pi - 1)", pi / (pi - 1),
              lambda: mf.chi1("relu", 2.0, 0.0, [mf.BatchNorm()]))
    for batch in (8, 32):
        yield Row(f"batch norm, linear, {batch} examples: growth of gradients", "Yang 2019: (B-2) / (B-3)", (batch - 2) / (batch - 3),
                  lambda batch=batch: mf.chi1("identity", 1.0, 0.0, [mf.BatchNorm(batch)]))
    yield Row("uniform attention of 16 tokens, alpha² = 0.36: rate of rank collapse", "Noci 2022: 1 - alpha²", 0.64,
              lambda: np.exp(-1 / mf.depth_scales("identity", 1.0, 0.0, [mf.Attention(16), mf.Residual(0.6, 0.8)]).xi_c))
    yield Row("convolution, 3 taps, slowest mode but one of 8 pixels: xi_c", "Xiao 2018: -1 / ln(chi lambda)",
              -1 / np.log(0.986741 * (1 + 2**0.5) / 3),
              lambda: mf.depth_scales("tanh", 1.7, 0.05, [mf.Convolution(frequency=pi / 4)]).xi_c)
    yield from decisions()


def decisions() -> Iterator[Row]:
    """Quantizers, ranges, pruning and physics-informed networks."""
    for dtype, known in CLIPS.items():
        for name, law, values in zip(("Gaussian", "half-Gaussian"), (precision.normal(), precision.rectified()), known, strict=True):
            for what, field, value in zip(("clip", "SQNR (dB)"), ("clip", "sqnr"), values, strict=True):
                yield Row(f"{dtype}, {name}: {what} of least error", "Max 1960", value,
                          lambda law=law, dtype=dtype, field=field: getattr(precision.quantizer(law, dtype), field))
    for depth, ends in WINDOWS.items():
        for end, value in zip(("low", "high"), ends, strict=True):
            yield Row(f"float16, {depth} layers: {end} end of gains", "(2^-14)^(2/L), 65504^(2/L)", value,
                      lambda depth=depth, end=end: getattr(precision.gain_window("float16", depth), end))
    for kept, value in PRUNED.items():
        yield Row(f"pruned by magnitude, {kept:.0%} kept: share of the variance", "p + 2 tau phi(tau)", value,
                  lambda kept=kept: sp.sparse.share(sp.Law(0.0, 1.0), kept).variance)
    for speed in (0.5, 2.0):
        yield Row(f"wave equation, c = {speed:g}, sine layer at x = 0: E r² / E u_tt²", "1 + c⁴ - 2 c² / 3",
                  1 + speed**4 - 2 * speed**2 / 3, lambda speed=speed: wave(speed))


def wave(speed: float) -> float:
    """Loss of the residual at the origin, in units of that of ``u_tt``."""
    def u(params: Any, x: Any) -> Any:
        return jnp.sin(x @ params["in"] + params["bias"]) @ params["out"]

    def init(key: Any) -> Any:
        one, two, three = jax.random.split(key, 3)
        return {"in": jax.random.normal(one, (2, 64)), "bias": jax.random.normal(two, (64,)), "out": jax.random.normal(three, (64,)) / 8}

    def residual(c: float) -> Callable[..., Any]:
        def one(params: Any, x: Any) -> Any:
            curved = jax.hessian(u, 1)(params, x)
            return curved[0, 0] - c**2 * curved[1, 1]

        return lambda params, points: jax.vmap(lambda x: one(params, x))(points)[:, None]

    origin = np.zeros((1, 2), np.float32)
    net = sp.network(lambda params, x: jax.vmap(lambda x: u(params, x))(x)[:, None], origin, init=init)
    found = sp.pinn.loss_balance(net, {"residual": (residual(speed), origin, None), "u_tt": (residual(0.0), origin, None)})
    return float(found.loss.sel(term="residual") / found.loss.sel(term="u_tt"))


def point(weight: float, bias: float) -> tuple[float, ...]:
    found, scales = mf.fixed_point("tanh", weight, bias), mf.depth_scales("tanh", weight, bias)
    return found.q, found.c, mf.chi1("tanh", weight, bias), scales.xi_c, scales.xi_q


def linear(depth: int) -> mf.Jacobian:
    return mf.Jacobian("identity", 1.0, 0.0, depth)


def blocks(depth: int) -> float:
    return float(mf.ResidualJacobian("identity", 1 / depth, 0.0, depth).moments(2).value[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    found = [(row, float(row.ours())) for row in rows()]
    cells = [(row.what, row.source, f"{row.expected:.6g}", f"{ours:.7g}", f"{ours - row.expected:.0e}") for row, ours in found]
    text = table([("theory reproduced", "source", "expected", "ours", "difference"), *cells])
    print(text)
    if parser.parse_args().readme:
        put(text, MARKS, [cell[0] for cell in cells])


if __name__ == "__main__":
    main()
