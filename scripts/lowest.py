"""Prints ``name==version`` for the lower bound of every requirement in pyproject.toml: constraints for ``pip install -c``."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(extras: tuple[str, ...]) -> list[str]:
    """Of the requirements of the package and of some extras.

    Raises:
        SystemExit: naming a requirement without a lower bound.
    """
    asked = [*PROJECT["dependencies"], *(r for extra in extras for r in PROJECT["optional-dependencies"][extra])]
    found = []
    for requirement in asked:
        name = re.match(r"[\w.-]+", requirement)
        lower = re.search(r">=\s*([\w.]+)", requirement)
        if name and name[0] != PROJECT["name"]:
            if lower is None:
                sys.exit(f"{requirement}: no lower bound in pyproject.toml")
            found.append(f"{name[0]}=={lower[1]}")
    return sorted(set(found))


if __name__ == "__main__":
    print(*bounds(tuple(sys.argv[1:]) or ("figures", "studies")), sep="\n")
