"""A kernel in a store, read by blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from sigprop.errors import InvalidInput
from sigprop.gram.layout import Layout, Tile
from sigprop.gram.store import ATTRIBUTE, finished, layout_of, opened
from sigprop.network.checks import check_choice
from sigprop.types import Kernel

if TYPE_CHECKING:
    import zarr

_DENSE = 1000  # rows of a kernel whose eigenvalues are computed densely


@dataclass(frozen=True, eq=False)
class Gram:
    """NNGP and NTK in a zarr group, one chunk per tile; nothing is read before it is asked for.

    Attributes:
        path: of the group.
        layout: shape, tile, and whether it is the kernel of one set of inputs with itself.
        nngp, ntk: ``zarr.Array`` ``[n1, n2]``, to be indexed like NumPy's; ``ntk`` is ``None`` where the kernel has none. A tile that is
            damaged raises ``ValueError`` when read, one that is missing reads as NaN.
        error: absolute errors of each tile, ``[rows, columns, 2]``, of NNGP and NTK.
    """

    path: Path
    layout: Layout
    nngp: zarr.Array
    ntk: zarr.Array | None
    error: zarr.Array

    @property
    def shape(self) -> tuple[int, int]:
        return self.layout.shape

    @property
    def names(self) -> tuple[str, ...]:
        return ("nngp",) if self.ntk is None else ("nngp", "ntk")

    def array(self, which: str = "ntk") -> zarr.Array:
        """The stored array called ``which``.

        Raises:
            InvalidInput: for a name that is none of ``nngp`` and ``ntk``, or an NTK that is not there.
        """
        check_choice("which", which, self.names)
        found = self.nngp if which == "nngp" else self.ntk
        assert found is not None
        return found

    def verify(self) -> list[Tile]:
        """Positions of tiles that are missing, torn or damaged, by their checksums; ``sp.gram`` with the same arguments mends them."""
        group = opened(self.path)
        return [tile for tile in self.layout.tiles if not finished(group, self.layout, self.names, tile)]

    def blocks(self, which: str = "ntk") -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Rows, columns and numbers of each tile that was computed; those below the diagonal of a symmetric kernel are left out."""
        array = self.array(which)
        for tile in self.layout.tiles:
            rows, columns = self.layout.where(tile)
            yield rows, columns, np.asarray(array[rows, columns])

    def matvec(self, v: Any, which: str = "ntk") -> np.ndarray:
        """``K v`` for ``v`` ``[n2]`` or ``[n2, k]``, tile by tile, in the wider of both dtypes."""
        v = np.asarray(v)
        if v.ndim not in (1, 2) or len(v) != self.shape[1]:
            raise InvalidInput(f"v: shape {v.shape}; a kernel of shape {self.shape} takes ({self.shape[1]},) or ({self.shape[1]}, k)")
        out = np.zeros((self.shape[0], *v.shape[1:]), np.result_type(v, self.nngp.dtype))
        for rows, columns, block in self.blocks(which):
            out[rows] += block @ v[columns]
            if self.layout.symmetric and rows != columns:
                out[columns] += block.T @ v[rows]
        return out

    def kernel(self) -> Kernel:
        """All of it in memory; the errors are the largest of any tile."""
        found = [jnp.asarray(np.asarray(self.array(name)[:])) for name in self.names]
        errors = np.nanmax(np.asarray(self.error[:]), (0, 1))
        return Kernel(found[0], found[1] if self.ntk is not None else None, jnp.asarray(errors[0]),
                      jnp.asarray(errors[1]) if self.ntk is not None else None)

    def asymmetry(self, which: str = "ntk") -> float:
        """The largest ``|K - K^T|``, relative to the largest entry; tiles below the diagonal are transposes, those on it are looked at."""
        self._check_square()
        gap = largest = 0.0
        for rows, columns, block in self.blocks(which):
            largest = max(largest, float(np.abs(block).max()))
            gap = max(gap, float(np.abs(block - block.T).max())) if rows == columns else gap
        return gap / largest if largest else 0.0

    def extremes(self, which: str = "ntk") -> tuple[float, float]:
        """The smallest and the largest eigenvalue: of the matrix up to 1000 rows, beyond by Lanczos' iteration over the store.

        The latter's are inside the spectrum, within 1e-3 of the largest in absolute value.
        """
        self._check_square()
        if self.shape[0] <= _DENSE:
            values = np.linalg.eigvalsh(np.asarray(self.array(which)[:], np.float64))
            return float(values[0]), float(values[-1])
        largest = self._top(lambda v: self.matvec(v, which))
        return largest - self._top(lambda v: largest * v - self.matvec(v, which)), largest

    def _top(self, product: Callable[[np.ndarray], np.ndarray]) -> float:
        sparse: Any = import_module("scipy.sparse.linalg")
        operator = sparse.LinearOperator(self.shape, product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(self.shape[0])
        return float(sparse.eigsh(operator, 1, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)[0])

    def check_psd(self, which: str = "ntk", tolerance: float | None = None) -> None:
        """Refuse a kernel that is not symmetric and positive semidefinite.

        Args:
            tolerance: how far below zero an eigenvalue may be, relative to the largest: ``n * eps``, or 1e-3 where they are iterated.

        Raises:
            InvalidInput: with its asymmetry, or its smallest and largest eigenvalue.
        """
        eps = float(np.finfo(self.nngp.dtype).eps)
        gap = self.asymmetry(which)
        if gap > eps**0.5:
            raise InvalidInput(f"{which}: not symmetric, entries differ from their transposes by {gap:.3g} of the largest")
        smallest, largest = self.extremes(which)
        allowed = (self.shape[0] * eps if self.shape[0] <= _DENSE else 1e-3) if tolerance is None else tolerance
        if smallest < -allowed * max(abs(smallest), abs(largest)):
            raise InvalidInput(f"{which}: not positive semidefinite, its eigenvalues go from {smallest:.6g} to {largest:.6g}")

    def _check_square(self) -> None:
        if not self.layout.symmetric:
            raise InvalidInput(f"kernel: of two sets of inputs, shape {self.shape}; symmetry is that of a set with itself")


def open_gram(path: str | Path) -> Gram:
    """A kernel stored by :func:`sigprop.gram`.

    Raises:
        InvalidInput: where there is none at ``path``.
        MissingDependency: where zarr is not installed.
    """
    group = opened(Path(path))
    about: Any = group.attrs[ATTRIBUTE]
    arrays: Any = {name: group[name] for name in (*about["arrays"], "error")}
    return Gram(Path(path), layout_of(about), arrays["nngp"], arrays.get("ntk"), arrays["error"])

