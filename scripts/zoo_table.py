"""Largest gap between prediction and measurement of each architecture of the zoo at three widths, as a Markdown table.

    python scripts/zoo_table.py [--only NAME ...] [--widths 64 256 1024] [--draws 4e8] [--repredict] [--readme] [--out out/zoo]

The gap is that of the second moment of the wide nodes, relative to the prediction. The noise of sampling is taken off by control variates
(``tests/zoo/control.py``), with coefficients found on other draws (at the smallest width, refined at each): unbiased at every width.
Finished cells are kept in the folder and not measured again; delete it (or give another) to start over. Nodes with fewer than width/8
channels are left out: they are linear in fresh weights, so that they have the gap of the wide node before them, only with more noise.
Images count one, other inputs two examples.
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

from readme import put, table  # noqa: E402
from zoo import ZOO  # noqa: E402
from zoo.control import sampler  # noqa: E402
from zoo.regress import coefficients, corrected  # noqa: E402
from zoo.scaling import Gap, decay, decay_to_zero, fit, relative  # noqa: E402

import sigprop as sp  # noqa: E402

FALSE_ALARM = 1e-3  # of a statement about all nodes of one architecture
NEGLIGIBLE = 1e-5  # of a gap: float32 sums are good to about 1e-6
PILOT_WIDTH, PILOT_SEEDS = 64, 512
SEEDS = (48, 512)
MARKS = "<!-- zoo table: written by make table -->", "<!-- end of zoo table -->"


def inputs(name):
    return [a[:1] if a.ndim == 4 else a for a in ZOO[name].inputs()]


def pilot(name, folder):
    """Slopes ``[controls, nodes]`` of the relative second moments on the relative controls."""
    path = folder / f"{name}.npz"
    if not path.exists():
        net, x = ZOO[name].network(PILOT_WIDTH), inputs(name)
        values, controls, sizes, weights = sampler(net, x, ZOO[name].sites)(PILOT_SEEDS, key=1)
        np.savez(path, slopes=coefficients(controls / sizes, values / values.mean(axis=0), weights))
    return np.load(path)["slopes"]


def measured(net, x, second, slopes, draws, sites):
    """Mean and standard error of each node's second moment, the controls over sizes from other draws."""
    size = sum(leaf.size for leaf in jax.tree.leaves(net.abstract_params))
    seeds = int(np.clip(draws / size, *SEEDS))
    draw = sampler(net, x, sites)
    _, _, sizes, weights = draw(8, key=2)
    values, controls, _, _ = draw(seeds, key=3)
    mean, error = corrected(controls / sizes, values / second, weights, slopes)
    plain = (values / second).std(axis=0) / len(values) ** 0.5
    channels = [row.shape[-1] if row.shape else 1 for row in net.rows(*x)]
    return {"channels": channels, "seeds": len(values), "second_moment": (mean * second).tolist(), "stderr": (error * second).tolist(),
            "plain_stderr": (plain * second).tolist()}


def predicted(net, x):
    """Second moments of all nodes, or the message of a refusal."""
    try:
        found = sp.propagate(net, *x, backward=False)
    except sp.SigpropError as error:
        return {"refused": str(error).split(":")[0].split(". ")[0]}
    except MemoryError:
        return {"refused": "out of memory"}
    return {"nodes": found.node.values.tolist(), "second_moment": found.second_moment.values.tolist(),
            "error": found.error.values.tolist()}


def cell(name, width, old, options):
    """Prediction and measurement of one architecture at one width, as far as ``old`` lacks them."""
    start = time.perf_counter()
    net, x = ZOO[name].network(width), inputs(name)
    new = dict(old)
    if options.repredict or "refused" in old.get("predicted", {"refused": ""}):
        new["predicted"] = predicted(net, x)
        new["seconds"] = {**old.get("seconds", {}), "predict": time.perf_counter() - start}
    if "measured" not in old and "refused" not in new["predicted"]:
        second = np.asarray(new["predicted"]["second_moment"])
        new["measured"] = measured(net, x, second, pilot(name, options.out), options.draws, ZOO[name].sites)
    new["seconds"]["total"] = time.perf_counter() - start
    return new


def refused(entry):
    return entry["predicted"].get("refused")


def wide(entry, width):
    """Which nodes count: those with channels enough to be told from noise."""
    return np.asarray(entry["measured"]["channels"]) * 8 >= width


def gaps(entry):
    """With errors enlarged to what Student's distribution asks for (each coefficient rests on half of the seeds), to be read as normal."""
    columns = (("predicted", "second_moment"), ("measured", "second_moment"), ("measured", "stderr"))
    found = relative(*(np.asarray(entry[kind][name]) for kind, name in columns))
    tail = FALSE_ALARM / found.gap.size / 2
    factor = student.isf(tail, entry["measured"]["seeds"] // 2 - 1) / norm.isf(tail)
    return Gap(found.gap, np.maximum(found.error, NEGLIGIBLE / 10) * factor)


def percent(value):
    return f"{100 * value:.2g} %"


def largest(entry, width):
    """The largest gap and its standard error; an upper bound where all nodes agree within noise."""
    if refused(entry):
        return "refused"
    found, which = gaps(entry), wide(entry, width)
    bound = norm.isf(FALSE_ALARM / which.size / 2)
    clear = which & (abs(found.gap) > np.maximum(bound * found.error, NEGLIGIBLE))
    if not clear.any():
        return f"< {percent((abs(found.gap) + 2 * found.error)[which].max())}"
    k = int(np.where(clear, abs(found.gap), 0).argmax())
    return f"{percent(abs(found.gap[k]))} ± {100 * found.error[k]:.1g}"


def falling(widths, entries):
    """The exponent of the node with the largest gap, of those that show it clear of the noise.

    From the first two widths alone where three do not show it, or were not measured.
    """
    if any(refused(e) for e in entries):
        return next(refused(e) for e in entries if refused(e))
    if all(largest(e, w).startswith("<") for e, w in zip(entries, widths, strict=True)):
        return "no gap"
    which = counted(widths, entries)
    found, sigmas = [gaps(e) for e in entries], norm.isf(FALSE_ALARM / which.size / 2)
    declared = declared_errors(entries[-1])
    for label, fall in (("", decay(widths, found, sigmas) if len(widths) == 3 else None),
                        (" (two widths)", decay_to_zero(widths[:2], found[:2], sigmas, declared) if len(widths) > 1 else None)):
        if fall and (shown := which & np.isfinite(fall.error)).any():
            k = int(np.where(shown, abs(found[0].gap), -1).argmax())
            return f"{fall.exponent[k]:.2f} ± {fall.error[k]:.1g}{label}"
    return "-"


def staying(widths, entries):
    """The largest limit of any node that exceeds the noise, from a fit with a term of order ``1 / width^2``, beside its declared error."""
    if any(refused(e) for e in entries) or len(entries) < 3:
        return ""
    which = counted(widths, entries)
    line, bound = fit(widths, [gaps(e) for e in entries], order=2), norm.isf(FALSE_ALARM / which.size / 2)
    declared = declared_errors(entries[-1])
    over = np.where(which & (abs(line.limit) > NEGLIGIBLE), abs(line.limit) - bound * line.limit_error, -1)
    if over.max() < 0:
        return "-"
    k = int(np.where(over > 0, over - declared, -np.inf).argmax())
    kept = f"{percent(abs(line.limit[k]))} ± {100 * line.limit_error[k]:.1g} at `{entries[0]['predicted']['nodes'][k]}`"
    return f"{kept}, {'declared' if over[k] < declared[k] else '**declared only**'} {percent(declared[k])}"


def declared_errors(entry):
    """Relative to the prediction."""
    second, error = (np.asarray(entry["predicted"][k]) for k in ("second_moment", "error"))
    return error / np.where(second > 0, second, 1)


def counted(widths, entries):
    return np.all([wide(e, w) for e, w in zip(entries, widths, strict=True)], axis=0)


def markdown(store, widths):
    rows = [["architecture", "API", "seconds", *(f"width {w}" for w in widths), "falls as width to the", "what stays"]]
    for name in ZOO:
        done = [w for w in widths if f"{name}|{w}" in store]
        if done:
            entries = [store[f"{name}|{w}"] for w in done]
            shown = [largest(store[f"{name}|{w}"], w) if w in done else "" for w in widths]
            seconds = f"{entries[0]['seconds']['predict']:.2g}"
            rows.append([name, ZOO[name].api, seconds, *shown, falling(done, entries), staying(done, entries)])
    return table(rows)


def stored(path):
    """Finished cells by ``name|width``."""
    return json.loads(path.read_text()) if path.exists() else {}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(ZOO), choices=list(ZOO), metavar="NAME")
    parser.add_argument("--widths", nargs="+", type=int, default=[64, 256, 1024])
    parser.add_argument("--draws", type=float, default=4e8, help="random parameters drawn per cell; sets the number of seeds")
    parser.add_argument("--repredict", action="store_true", help="predict again, keep what was measured")
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "zoo")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "table.json"
    store = stored(path)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("zoo", total=len(options.only) * len(options.widths))
        for name in options.only:
            for width in options.widths:
                progress.update(task, description=f"{name}, width {width}")
                key = f"{name}|{width}"
                old = store.get(key, {})
                if options.repredict or not old or refused(old):
                    new = cell(name, width, old, options)
                    store = {**stored(path), key: new}  # others may have written meanwhile
                    path.write_text(json.dumps(store))
                    jax.clear_caches()
                    console.print(f"{name}, width {width}: {largest(new, width)} ({new.get('measured', {}).get('seeds', 0)} seeds, "
                                  f"{new['seconds']['total']:.0f} s)")
                progress.advance(task)
    text = markdown(store, options.widths)
    print(text)
    if options.readme:
        put(text, MARKS, ZOO)


if __name__ == "__main__":
    main()
