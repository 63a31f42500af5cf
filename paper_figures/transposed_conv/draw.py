"""Draw ``data.nc`` as PDF and PNG, in ``out/figures``."""

from pathlib import Path

from sigprop.figures import redrawn

print(*redrawn(Path(__file__).parent), sep="\n")
