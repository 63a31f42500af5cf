"""Largest gap between prediction and measurement, forward and backward, of models whose layers mix tokens, sites or examples.

    python scripts/gradient_table.py [--only NAME ...] [--widths 64 256 1024] [--draws 4e8] [--readme] [--out out/gradients]

Second moments of all rows of at least ``width / 8`` channels and of the gradients that arrive there, relative to the prediction, over
plain draws of the parameters. "<" where no row is clear of the noise (false alarm 1e-3 per cell), which is then given: twice the standard
error beyond the largest gap. Finished cells are kept in the folder and not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.stats import norm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from readme import put, table  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo.scaling import relative  # noqa: E402

import sigprop as sp  # noqa: E402

MODELS = ("Causal language model", "Llama-like language model", "ViT", "LSTM classifier", "MBConv with squeeze-excite",
          "U-Net with max-pooling", "Zero-gamma ResNet", "Weight-standardized ResNet", "Weight-normalized MLP", "DenseNet")
FALSE_ALARM = 1e-3
SEEDS = (24, 512)
COLUMNS = {"forward": "second_moment", "gradient": "grad_variance"}
MARKS = "<!-- gradient table: written by scripts/gradient_table.py -->", "<!-- end of gradient table -->"


def cell(name, width, draws):
    """Gaps of all rows, or why there are none."""
    net, x = ZOO[name].network(width), ZOO[name].inputs()
    seeds = int(np.clip(draws / sum(leaf.size for leaf in jax.tree.leaves(net.abstract_params)), *SEEDS))
    found, start = {"seeds": seeds}, time.perf_counter()
    try:
        predicted = sp.propagate(net, *x, backward=False)
        found["seconds"] = [time.perf_counter() - start]
        predicted = sp.propagate(net, *x)
        found["seconds"].append(time.perf_counter() - start - found["seconds"][0])
    except sp.SigpropError as error:
        return {"refused": str(error).split(". ")[0]}
    measured = sp.measure(net, *x, seeds=seeds, key=jax.random.key(1))
    wide = np.array([8 * (row.shape[-1] if row.shape else 1) >= width for row in net.rows(*x)])
    for kind, column in COLUMNS.items():
        one, two, error = (d.values[wide] for d in (predicted[column], measured[column], measured[f"{column}_stderr"]))
        known = np.isfinite(one) & np.isfinite(two) & np.isfinite(error)
        gap = relative(one[known], two[known], error[known])
        found[kind] = {"gap": gap.gap.tolist(), "error": gap.error.tolist(), "nodes": predicted.node.values[wide][known].tolist()}
    if predicted.gradients:
        found["refused gradient"] = predicted.gradients.split(". ")[0]
    return found


def largest(found, kind):
    """The largest gap clear of the noise, or a bound."""
    if "refused" in found or not found[kind]["gap"]:
        return "refused" if "refused" in found or "refused gradient" in found else "-"
    gap, error = (np.asarray(found[kind][k]) for k in ("gap", "error"))
    clear = abs(gap) > norm.isf(FALSE_ALARM / gap.size / 2) * error + 1e-6
    if not clear.any():
        return f"< {100 * (abs(gap) + 2 * error).max():.2g} %"
    k = int(np.where(clear, abs(gap), 0).argmax())
    return f"{100 * abs(gap[k]):.2g} % ± {100 * error[k]:.1g}"


def markdown(store, widths):
    rows = [["model", "seconds", *(f"{kind}, width {w}" for kind in COLUMNS for w in widths)]]
    for name in MODELS:
        done = {w: store[f"{name}|{w}"] for w in widths if f"{name}|{w}" in store}
        if done:
            seconds = next((d["seconds"] for d in done.values() if "seconds" in d), [])
            rows.append([name, " + ".join(f"{s:.2g}" for s in seconds),
                         *(largest(done[w], kind) if w in done else "" for kind in COLUMNS for w in widths)])
    return table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=MODELS, metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--draws", type=float, default=4e8, help="random parameters drawn per cell; sets the number of seeds")
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "gradients")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "table.json"
    store = json.loads(path.read_text()) if path.exists() else {}
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("models", total=len(options.only) * len(options.widths))
        for width in options.widths:
            for name in options.only:
                progress.update(task, description=f"{name}, width {width}")
                key = f"{name}|{width}"
                if key not in store:
                    found = cell(name, width, options.draws)
                    store = {**(json.loads(path.read_text()) if path.exists() else {}), key: found}
                    path.write_text(json.dumps(store))
                    jax.clear_caches()
                    told = found.get("refused") or found.get("refused gradient", "")
                    console.print(f"{key}: {largest(found, 'forward')}, {largest(found, 'gradient')} {found.get('seconds', '')} {told}")
                progress.advance(task)
    text = markdown(store, options.widths)
    print(text)
    if options.readme:
        put(text, MARKS, MODELS)


if __name__ == "__main__":
    main()
