"""A tree of laws that prints as a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax

from sigprop.network.paths import parameter_paths
from sigprop.types import Law


def is_law(node: Any) -> bool:
    return isinstance(node, Law)


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Laws(Mapping[str, Law]):
    """Laws of all parameters: a mapping by path, and a pytree.

    ``laws["encoder/kernel"]`` is one law, ``laws.tree`` is a tree like the parameters with a :class:`Law` for each leaf (``None`` for
    random keys and counters), ``jax.tree.map(f, laws).tree`` maps over it, and ``print(laws)`` shows a table.

    Attributes:
        tree: laws in a tree like the parameters.
        shapes: shape of each parameter by path.
        fan_in: true fan-in by path of the parameters used as weights; empty where no example input was given.
    """

    tree: Any
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fan_in: Mapping[str, float] = field(default_factory=dict)

    def tree_flatten_with_keys(self) -> tuple[Any, Any]:
        return ((jax.tree_util.GetAttrKey("tree"), self.tree),), (tuple(self.shapes.items()), tuple(self.fan_in.items()))

    def tree_flatten(self) -> tuple[Any, Any]:
        return (self.tree,), (tuple(self.shapes.items()), tuple(self.fan_in.items()))

    @classmethod
    def tree_unflatten(cls, aux: Any, children: Any) -> Laws:
        return cls(children[0], dict(aux[0]), dict(aux[1]))

    def _table(self) -> dict[str, Law]:
        return dict(zip(parameter_paths(self.tree), jax.tree.leaves(self.tree), strict=True))

    def __getitem__(self, path: str) -> Law:
        table = self._table()
        if path not in table:
            raise KeyError(f"{path!r}: no such parameter; there are {list(table)}")
        return table[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

    def __str__(self) -> str:
        """One line per parameter: path, shape, family, mean, variance, variance times true fan-in, source."""
        head = ("parameter", "shape", "family", "mean", "variance", "variance x fan-in", "source")
        lines = [head, *(self._line(path, law) for path, law in self._table().items())]
        return aligned(lines, right={3, 4, 5})

    __repr__ = __str__

    def _line(self, path: str, law: Any) -> tuple[str, ...]:
        shape = str(self.shapes[path]) if path in self.shapes else ""
        if not is_law(law):  # after jax.tree.map
            return path, shape, "", "", str(law), "", ""
        fan = self.fan_in.get(path)
        scaled = "" if fan is None else f"{law.variance * fan:.6g}"
        return path, shape, law.family, f"{law.mean:.6g}", f"{law.variance:.6g}", scaled, law.source


def aligned(lines: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Lines of cells as columns, those numbered in ``right`` flush right."""
    widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
    return "\n".join("  ".join(
        cell.rjust(w) if k in right else cell.ljust(w) for k, (cell, w) in enumerate(zip(line, widths, strict=True))
    ).rstrip() for line in lines)
