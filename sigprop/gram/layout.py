"""How a matrix is cut into tiles of equal size."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

Tile = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """A matrix ``shape`` in tiles of size ``tile``, the last ones of a row or column being cut.

    Attributes:
        shape: rows and columns.
        tile: rows and columns of a tile.
        symmetric: a tile below the diagonal is the transpose of the one above, and not computed.
    """

    shape: tuple[int, int]
    tile: tuple[int, int]
    symmetric: bool

    @classmethod
    def of(cls, rows: int, columns: int | None, largest: int) -> Layout:
        """The fewest tiles of at most ``largest`` rows and columns, as even as they can be; symmetric where ``columns`` is ``None``."""
        shape = rows, rows if columns is None else columns
        return cls(shape, (even(shape[0], largest), even(shape[1], largest)), columns is None)

    @property
    def grid(self) -> tuple[int, int]:
        """Number of tiles along rows and columns."""
        return ceil(self.shape[0] / self.tile[0]), ceil(self.shape[1] / self.tile[1])

    @property
    def tiles(self) -> list[Tile]:
        """Positions of the tiles that are computed; where symmetric, on the diagonal and above."""
        return [(i, j) for i in range(self.grid[0]) for j in range(i if self.symmetric else 0, self.grid[1])]

    def where(self, tile: Tile) -> tuple[slice, slice]:
        """Its rows and columns."""
        (i, j), (rows, columns) = tile, self.tile
        return slice(i * rows, min((i + 1) * rows, self.shape[0])), slice(j * columns, min((j + 1) * columns, self.shape[1]))

    def copies(self, tile: Tile) -> list[Tile]:
        """The positions that its numbers go to: its own, and for the second one transposed."""
        return [tile, (tile[1], tile[0])] if self.symmetric and tile[0] != tile[1] else [tile]


def even(size: int, largest: int) -> int:
    return ceil(size / ceil(size / largest))
