"""Largest gap between prediction and measurement of each architecture of the zoo at three widths, as a Markdown table.

    python scripts/zoo_table.py [--only NAME ...] [--widths 64 256 1024] [--draws 2e8] [--repredict] [--out out/zoo_table.json]

Finished cells are kept in the JSON file and not measured again; delete it (or give another) to start over. The gap is that of the
second moment of the wide nodes, relative to the prediction. Nodes with fewer than width/8 channels are left out: they are linear in
fresh weights, so that they have the gap of the wide node before them, only with more noise.
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
from scipy.stats import t as student

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from zoo import ZOO  # noqa: E402
from zoo.scaling import Gap, fit, relative  # noqa: E402

import sigprop as sp  # noqa: E402

FALSE_ALARM = 1e-3  # of a statement about all nodes of one architecture
SEEDS = (32, 16384)
GROUP = 4  # seeds behind one of the values whose spread gives the standard error


def seeds_for(net, draws):
    """As many seeds as ``draws`` random parameters pay for, a multiple of four."""
    size = sum(leaf.size for leaf in jax.tree.leaves(net.abstract_params))
    return int(np.clip(draws / size, *SEEDS)) // GROUP * GROUP


def measured(net, x, draws):
    seeds = seeds_for(net, draws)
    found = sp.measure(net, *x, seeds=seeds)
    channels = [int(shape.strip("()").split(",")[-1] or shape.strip("()").split(",")[-2]) for shape in found["shape"].values]
    return {"nodes": found.node.values.tolist(), "channels": channels, "seeds": seeds,
            "second_moment": found.second_moment.values.tolist(), "stderr": found.second_moment_stderr.values.tolist()}


def predicted(net, x):
    """Second moments of all nodes, or the message of a refusal."""
    try:
        found = sp.propagate(net, *x)
    except sp.SigpropError as error:
        return {"refused": str(error).split(":")[0].split(". ")[0]}
    except MemoryError:
        return {"refused": "out of memory"}
    return {"nodes": found.node.values.tolist(), "second_moment": found.second_moment.values.tolist(),
            "approximate": ["approximation" in str(m) for m in found.method.values]}


def cell(name, width, old, options):
    """Prediction and measurement of one architecture at one width, as far as ``old`` lacks them."""
    start = time.perf_counter()
    net, x = ZOO[name].network(width), ZOO[name].inputs()
    new = dict(old)
    if options.repredict or "refused" in old.get("predicted", {"refused": ""}):
        new["predicted"] = predicted(net, x)
        new["seconds"] = {"predict": time.perf_counter() - start}
    if "measured" not in old or old["measured"]["nodes"] != [row.name for row in net.rows(*x)]:
        new["measured"] = measured(net, x, options.draws)
    new["seconds"] = {**old.get("seconds", {}), **new["seconds"], "total": time.perf_counter() - start}
    return new


def refused(entry):
    return entry["predicted"].get("refused")


def wide(entry, width):
    """Which nodes count: those with channels enough to be told from noise."""
    return np.asarray(entry["measured"]["channels"]) * 8 >= width


def noisy_gap(entry):
    """Gaps with errors enlarged to what Student's distribution asks for, so that they may be read as normal ones."""
    p, m = (np.asarray(entry[k]["second_moment"]) for k in ("predicted", "measured"))
    found = relative(p, m, np.asarray(entry["measured"]["stderr"]))
    tail = FALSE_ALARM / p.size / 2
    return Gap(found.gap, np.maximum(found.error, 1e-7) * student.isf(tail, entry["measured"]["seeds"] // GROUP - 1) / norm.isf(tail))


def percent(value):
    return f"{100 * value:.2g} %"


def largest(entry, width):
    """The largest gap with its standard error, noise taken off in quadrature; an upper bound where all nodes agree within noise."""
    if refused(entry):
        return "refused"
    found, which = noisy_gap(entry), wide(entry, width)
    bound = norm.isf(FALSE_ALARM / which.size / 2)
    clear = which & (abs(found.gap) > bound * found.error) & (abs(found.gap) > 1e-4)
    if not clear.any():
        return f"< {percent((abs(found.gap) + 2 * found.error)[which].max())}"
    clean = np.where(clear, np.sqrt(np.maximum(found.gap**2 - found.error**2, 0)), 0)
    k = int(clean.argmax())
    return f"{percent(clean[k])} ± {100 * found.error[k]:.1g}"


def verdict(widths, entries):
    """Whether what is left at infinite width, by a fit of ``limit + slope / width`` to each node, is zero within noise."""
    if any(refused(e) for e in entries):
        return next(refused(e) for e in entries if refused(e))
    if len(entries) < 2:
        return ""
    line = fit(widths, [noisy_gap(e) for e in entries])
    which = np.all([wide(e, w) for e, w in zip(entries, widths, strict=True)], axis=0)
    bound = norm.isf(FALSE_ALARM / which.size / 2)
    left = np.where(which & (abs(line.limit) > bound * line.limit_error), abs(line.limit), 0)
    if left.max() > 1e-4:
        k = int(left.argmax())
        why = ", flagged Gaussian approximation" if entries[0]["predicted"]["approximate"][k] else ""
        return f"no: {percent(left[k])} ± {100 * line.limit_error[k]:.1g} stays (`{entries[0]['measured']['nodes'][k]}`{why})"
    falls = which & (abs(line.slope) > bound * line.slope_error) & (abs(line.slope) > 1e-2)
    if not falls.any():
        return "within noise at every width"
    k = int(np.where(falls, abs(line.slope), -1).argmax())
    return f"yes: {abs(line.slope[k]):.2g} ± {line.slope_error[k]:.1g} / width"


def markdown(store, widths):
    rows = [["architecture", "", *map(str, widths), "falls as 1/width"]]
    for name in ZOO:
        done = [w for w in widths if f"{name}|{w}" in store]
        if done:
            entries = [store[f"{name}|{w}"] for w in done]
            shown = [largest(store[f"{name}|{w}"], w) if w in done else "" for w in widths]
            rows.append([name, ZOO[name].api, *shown, verdict(done, entries)])
    head = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return "\n".join(head + ["| " + " | ".join(r) + " |" for r in rows[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ZOO), choices=list(ZOO), metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--draws", type=float, default=2e8, help="random parameters drawn per cell; sets the number of seeds")
    parser.add_argument("--repredict", action="store_true", help="predict again, keep what was measured")
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
                old = store.get(key, {})
                if options.repredict or not old or refused(old):
                    store[key] = cell(name, width, old, options)
                    options.out.write_text(json.dumps(store))
                    jax.clear_caches()
                    new = store[key]
                    console.print(f"{name}, width {width}: {largest(new, width)} ({new['measured']['seeds']} seeds, "
                                  f"{new['seconds']['total']:.0f} s)")
                progress.advance(task)
    print(markdown(store, options.widths))


if __name__ == "__main__":
    main()
