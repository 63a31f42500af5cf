"""Notebooks: there is one for each study, all parse, and each runs from an empty namespace (slow)."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

from sigprop.studies import results

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))


def pages():
    spec = importlib.util.spec_from_file_location("docs", ROOT / "scripts" / "docs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_for_each_study_and_tutorials():
    docs = pages()
    assert sorted([*docs.TUTORIALS, *results.NAMES]) == NOTEBOOKS
    assert all(len(page.title) > 10 and len(page.summary) > 80 for page in map(docs.described, NOTEBOOKS))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_parse_and_have_no_outputs(name):
    cells = jupytext.read(ROOT / "notebooks" / f"{name}.py").cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown" and cells[0].source.startswith("# ") and kinds.count("code") >= 2 and "Change one thing" in str(cells)
    for cell in cells:
        if cell.cell_type == "code":
            compile("\n".join(line for line in cell.source.splitlines() if not line.startswith("%")), name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_they_run(name):
    """Percent files are programs: each in a process of its own, where warnings are errors; a claim that is not meant to fail passes."""
    run = subprocess.run([sys.executable, "-W", "error", f"{name}.py"], cwd=ROOT / "notebooks", capture_output=True, text=True,
                         env={**os.environ, "MPLBACKEND": "agg"})
    assert run.returncode == 0, run.stderr[-2000:]
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAIL")]
    assert len(failed) == (1 if name == "pointwise_conv" else 0), failed
