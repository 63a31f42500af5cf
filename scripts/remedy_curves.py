"""Training on digits from a bad initialization, and from the same after its remedy: curves of the loss and a Markdown table.

    python scripts/remedy_curves.py [--only NAME ...] [--seeds 3] [--draw] [--readme] [--out out/remedy]

Model, optimizer, learning rate, minibatches and the random numbers of the initial weights are the same before and after. The remedy is
found on four images. Finished runs are kept in the folder, one file per network, and not repeated while their settings stay the same;
``--draw`` only draws and tabulates what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from readme import put, table  # noqa: E402
from remedy_models import CASES, entropy, pixel_entropy, square, trainer  # noqa: E402

import sigprop as sp  # noqa: E402

STARTS = {"before": "#d55e00", "after": "#0072b2"}  # told apart by the colour-blind too (Okabe & Ito)
UNITS = {square: "mean squared error", entropy: "cross-entropy", pixel_entropy: "cross-entropy per pixel"}
SMOOTHED = 10  # steps that a curve averages over
CEILING = 2.0  # top of a panel, in units of the loss of chance
MARKS = "<!-- remedy table: written by scripts/remedy_curves.py -->", "<!-- end of remedy table -->"


def place(name, folder):
    return folder / ("-".join("".join(c if c.isascii() and c.isalnum() else " " for c in name.lower()).split()) + ".json")


def settings(name):
    case = CASES[name]
    return {"name": name, "rule": str(case.rule), "steps": case.steps, "target": case.target,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(case.network().abstract_params))}


def stored(name, folder):
    """Losses of finished runs, by "before" or "after" and seed; none where they were made with other settings."""
    path = place(name, folder)
    found = json.loads(path.read_text()) if path.exists() else {}
    return found["runs"] if found.get("settings") == settings(name) else {start: {} for start in STARTS}


def compute(name, seeds, folder, progress, task):
    """Train as often as the folder lacks it, writing each run when it ends."""
    case, runs = CASES[name], stored(name, folder)
    missing = [(start, seed) for start in STARTS for seed in range(seeds) if str(seed) not in runs[start]]
    progress.advance(task, case.steps * (len(STARTS) * seeds - len(missing)))
    if not missing:
        return
    net = case.network()
    progress.update(task, description=f"{name}: remedy")
    inits = {"before": net.init}
    if any(start == "after" for start, _ in missing):
        inits["after"] = sp.remedy(net, target=case.target).params
    train = trainer(net, case)
    for start, seed in missing:
        progress.update(task, description=f"{name}: {start}, seed {seed}")
        losses = train(inits[start](jax.random.key(seed)), seed, lambda: progress.advance(task))
        runs[start][str(seed)] = [float(f"{loss:.6g}") for loss in losses]
        place(name, folder).write_text(json.dumps({"settings": settings(name), "runs": runs}))
    jax.clear_caches()


def smoothed(losses):
    """Mean over the steps up to each, at most ``SMOOTHED``."""
    total = np.concatenate([[0.0], np.cumsum(losses)])
    ends = np.arange(1, len(losses) + 1)
    starts = np.maximum(ends - SMOOTHED, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def draw(shown):
    """A panel per network: the middle of the seeds, and the span of all."""
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, (name, runs) in zip(panels, shown.items(), strict=False):
        panel(axes, name, runs)
    for axes in panels[len(shown):]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].legend(handles, labels, loc="center", frameon=False, fontsize=11, alignment="left", title_fontsize=11,
                      title=f"line: median of seeds; band: all seeds\n(means of up to {SMOOTHED} minibatches)\n")
    return figure


def panel(axes, name, runs):
    case = CASES[name]
    top = CEILING * case.chance
    for start, color in STARTS.items():
        losses = np.array([smoothed(np.minimum(run[:-1], 1e9)) for run in runs[start].values()])
        if losses.size:
            steps = np.arange(losses.shape[1])
            axes.plot(steps, np.median(losses, axis=0), color=color, linewidth=1.8, label=f"{start} the remedy")
            axes.fill_between(steps, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axes.axhline(case.chance, color="#444444", linestyle="--", linewidth=1.0, label="output independent of the input")
    axes.set(xlim=(0, case.steps), ylim=(0, top), xlabel="step", ylabel=UNITS[case.loss])
    axes.set_title(f"{name}\n{case.rule}", loc="left", fontsize=9.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)


def spread(runs):
    """Mean and standard deviation over seeds of the last loss."""
    last = np.array([run[-1] for run in runs.values()])
    if not np.all(np.isfinite(last)):
        return f"diverges ({np.sum(~np.isfinite(last))} of {len(last)})"
    return f"{last.mean():.3g} ± {last.std(ddof=1):.1g}" if len(last) > 1 else f"{last.mean():.3g}"


def markdown(shown):
    rows = [["network", "optimizer", "steps", "chance", "before", "after"]]
    for name, runs in shown.items():
        case = CASES[name]
        rows.append([name, str(case.rule), str(case.steps), f"{case.chance:.3g}", *(spread(runs[start]) for start in STARTS)])
    return table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", action="store_true", help="draw and tabulate stored runs only")
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "remedy")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    if not options.draw:
        with Progress(*columns, console=Console()) as progress:
            for name in options.only:
                task = progress.add_task(name, total=CASES[name].steps * len(STARTS) * options.seeds)
                compute(name, options.seeds, options.out, progress, task)
                progress.update(task, description=name)
    every = {name: stored(name, options.out) for name in CASES}
    shown = {name: runs for name, runs in every.items() if all(runs.values())}
    for kind in ("png", "pdf"):
        draw(shown).savefig(options.out / f"curves.{kind}", dpi=160)
    text = markdown(shown)
    print(text)
    if options.readme:
        put(text, MARKS, CASES)


if __name__ == "__main__":
    main()
