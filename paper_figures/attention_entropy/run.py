"""Compute ``data.nc`` by the paper preset; an interrupted run is taken up again."""

from pathlib import Path

from sigprop.figures import recomputed

print(recomputed(Path(__file__).parent))
