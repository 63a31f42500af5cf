"""Largest gap between prediction and measurement of each architecture of the zoo at three widths, as a Markdown table.

    python scripts/zoo_table.py [--only NAME ...] [--widths 64 256 1024] [--draws 2.5e8] [--out out/zoo_table.json]

Finished cells are kept in the JSON file and not computed again; delete it (or give another) to start over.
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

from zoo import ZOO  # noqa: E402
from zoo.scaling import Gap, fit, gap  # noqa: E402

import sigprop as sp  # noqa: E402

FALSE_ALARM = 1e-3  # of a statement about all nodes of one architecture
SEEDS = (16, 4096)


def seeds_for(net, draws):
    """As many seeds as ``draws`` random parameters pay for, a multiple of four."""
    size = sum(leaf.size for leaf in jax.tree.leaves(net.abstract_params))
    return int(np.clip(draws / size, *SEEDS)) // 4 * 4


def cell(name, width, draws):
    """Gaps of all nodes at one width, or the message of a refusal."""
    start = time.perf_counter()
    net, x = ZOO[name].network(width), ZOO[name].inputs()
    try:
        predicted = sp.propagate(net, *x)
    except sp.SigpropError as error:
        return {"refused": str(error).split(":")[0].split(". ")[0]}
    predicting = time.perf_counter() - start
    seeds = seeds_for(net, draws)
    found = gap(predicted, sp.measure(net, *x, seeds=seeds))
    return {"nodes": predicted.node.values.tolist(), "gap": found.gap.tolist(), "error": found.error.tolist(), "seeds": seeds,
            "approximate": ["approximation" in m for m in predicted.method.values],
            "seconds": {"predict": predicting, "total": time.perf_counter() - start}}


def as_gap(entry):
    return Gap(np.asarray(entry["gap"]), np.asarray(entry["error"]))


def percent(value):
    return f"{100 * value:.2g} %"


def largest(entry):
    """The largest gap with its standard error, noise taken off in quadrature; an upper bound where all nodes agree within noise."""
    if "refused" in entry:
        return "refused"
    found = as_gap(entry)
    error = np.maximum(found.error, 1e-7)
    bound = norm.isf(FALSE_ALARM / error.size / 2)
    if (abs(found.gap) < bound * error).all():
        return f"< {percent((abs(found.gap) + 2 * error).max())}"
    clean = np.where(abs(found.gap) > bound * error, np.sqrt(np.maximum(found.gap**2 - error**2, 0)), 0)
    k = int(clean.argmax())
    return f"{percent(clean[k])} ± {100 * error[k]:.1g}"


def verdict(widths, entries):
    """Whether what is left at infinite width, by a fit of ``limit + slope / width`` to each node, is zero within noise."""
    if any("refused" in e for e in entries):
        return next(e["refused"] for e in entries if "refused" in e)
    if len(entries) < 2:
        return ""
    line = fit(widths, [as_gap(e) for e in entries])
    bound = norm.isf(FALSE_ALARM / line.limit.size / 2)
    left = np.where(abs(line.limit) > bound * line.limit_error, abs(line.limit), 0)
    if left.max() > 1e-4:
        k = int(left.argmax())
        why = " (flagged: Gaussian approximation)" if entries[0]["approximate"][k] else ""
        return f"no: {percent(left[k])} ± {100 * line.limit_error[k]:.1g} stays at `{entries[0]['nodes'][k]}`{why}"
    falls = (abs(line.slope) > bound * line.slope_error) & (abs(line.slope) > 1e-3)
    top = int(np.where(falls, abs(line.slope), -1).argmax())
    if falls.any():
        return f"yes: {abs(line.slope[top]):.2g} ± {line.slope_error[top]:.1g} / width"
    return "nothing above noise"


def markdown(store, widths):
    rows = [["architecture", "", *map(str, widths), "falls as 1/width"]]
    for name in ZOO:
        done = [w for w in widths if f"{name}|{w}" in store]
        if done:
            entries = [store[f"{name}|{w}"] for w in done]
            shown = [largest(store[f"{name}|{w}"]) if w in done else "" for w in widths]
            rows.append([name, ZOO[name].api, *shown, verdict(done, entries)])
    head = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(head + ["| " + " | ".join(r) + " |" for r in rows[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ZOO), choices=list(ZOO), metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--draws", type=float, default=2.5e8, help="random parameters drawn per cell; sets the number of seeds")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "zoo_table.json")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    store = json.loads(options.out.read_text()) if options.out.exists() else {}
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("zoo", total=len(options.only) * len(options.widths))
        for width in options.widths:
            for name in options.only:
                progress.update(task, description=f"{name}, width {width}")
                key = f"{name}|{width}"
                if key not in store:
                    store[key] = cell(name, width, options.draws)
                    options.out.write_text(json.dumps(store))
                    jax.clear_caches()
                    seconds = store[key].get("seconds", {}).get("total", 0)
                    console.print(f"{name}, width {width}: {largest(store[key])} ({store[key].get('seeds', 0)} seeds, {seconds:.0f} s)")
                progress.advance(task)
    print(markdown(store, options.widths))


if __name__ == "__main__":
    main()
