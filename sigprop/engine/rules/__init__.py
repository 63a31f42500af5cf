"""The table of rules, by primitive name."""

from typing import Any

from sigprop.engine.rules import contract, elementwise, pooling, random, scatter, shape

RULES: dict[str, Any] = {**elementwise.RULES, **shape.RULES, **contract.RULES, **pooling.RULES, **random.RULES, **scatter.RULES}
__all__ = ["RULES"]
