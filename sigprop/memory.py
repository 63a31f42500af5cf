"""Memory that a compiled program needs, and that there is."""

from __future__ import annotations

import os
from typing import Any


def needed(compiled: Any) -> int:
    """Bytes that a program compiled by JAX takes while it runs, 0 where the platform does not tell."""
    sizes = compiled.memory_analysis()
    return 0 if sizes is None else sizes.temp_size_in_bytes + sizes.output_size_in_bytes + sizes.argument_size_in_bytes


def available() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
