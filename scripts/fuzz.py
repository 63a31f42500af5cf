"""Random programs built from the rules of the interpreter: predicted against measured, or refused with a reason.

    python scripts/fuzz.py [--count 500] [--seed 0] [--out out/fuzz]

A program is a list of 2 to 5 steps (``tests/test_fuzz.py``) behind a dense layer. A prediction and a Monte Carlo estimate extrapolated to
infinite width agree where they differ by less than 5 % (false alarm 1e-6 each); where the estimate is too noisy to tell, the program
counts as not measured. Finished programs are kept in the folder and not run again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from test_fuzz import STEPS, outcome  # noqa: E402


def programs(count: int, seed: int) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(str(s) for s in rng.choice(STEPS, rng.integers(2, 6))) for _ in range(count)]


def tried(steps: tuple[str, ...]) -> str:
    try:
        return outcome(steps)
    except Exception as error:  # an answer that is wrong, or an error that is no refusal: what is looked for
        return f"failed: {type(error).__name__}: {error}"[:400]


def summary(found: dict[str, str]) -> str:
    """Outcomes, and refusals by the first sentence of their reason, as Markdown."""
    kinds = Counter(text.split(":")[0] for text in found.values())
    refused = [text.removeprefix("refused: ") for text in found.values() if text.startswith("refused")]
    reasons = Counter(re.split(r"[.:(]", text)[0].strip() for text in refused)
    lines = [f"{len(found)} programs: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) + ".", ""]
    lines += ["| programs | refused because |", "| --- | --- |", *(f"| {count} | {reason} |" for reason, count in reasons.most_common())]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "fuzz")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.seed}.json"
    found: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    console = Console()
    with Progress(TextColumn("programs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=options.count)
        for steps in programs(options.count, options.seed):
            name = " > ".join(steps)
            if name not in found:
                found[name] = tried(steps)
                path.write_text(json.dumps(found, indent=1))
                if found[name].startswith("failed"):
                    console.print(f"{name}: {found[name]}")
            progress.advance(task)
    print(summary(found))
    sys.exit(any(text.startswith("failed") for text in found.values()))


if __name__ == "__main__":
    main()
