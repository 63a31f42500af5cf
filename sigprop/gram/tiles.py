"""Tiles of a kernel: one compiled program of fixed shape, on one or several devices of this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sigprop.errors import InvalidInput, OutOfMemory
from sigprop.gram.layout import Layout, Tile

_EXHAUSTED = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")


class Programs(NamedTuple):
    """Traced programs ``(*leaves of x1, *leaves of x2) -> (nngp, ntk or nothing, errors)`` of one tile.

    Attributes:
        pair: of two parts of the data.
        own: ``(*leaves)``, of a part with itself, in which equal examples are known to be equal; ``None`` where there is no such tile.
        names: ``("nngp", "ntk")`` or ``("nngp",)``.
        dtype: of the kernel.
    """

    pair: ClosedJaxpr
    own: ClosedJaxpr | None
    names: tuple[str, ...]
    dtype: np.dtype


def programs(kernel_fn: Callable[..., Any], x1: Any, x2: Any, layout: Layout) -> Programs:
    """Trace a kernel at the size of a tile.

    Raises:
        InvalidInput: where it is no kernel with one number per pair of examples.
    """
    one, two = (jax.tree.map(lambda a, n=n: jax.ShapeDtypeStruct((n, *np.shape(a)[1:]), jax.dtypes.canonicalize_dtype(a.dtype)), x)
                for x, n in zip((x1, x1 if x2 is None else x2), layout.tile, strict=True))
    pair, shapes = jax.make_jaxpr(lambda a, b: _arrays(kernel_fn(a, b), layout.tile), return_shape=True)(one, two)
    own = jax.make_jaxpr(lambda a: _arrays(kernel_fn(a), layout.tile))(one) if layout.symmetric else None
    return Programs(pair, own, ("nngp", "ntk")[:len(shapes) - 1], np.dtype(shapes[0].dtype))


def _arrays(kernel: Any, shape: tuple[int, int]) -> list[Any]:
    if not hasattr(kernel, "nngp") or not hasattr(kernel, "ntk"):
        raise InvalidInput(f"kernel_fn: returns {type(kernel).__name__}; it must be a function (x1, x2=None) -> sp.Kernel")
    found = [kernel.nngp] if kernel.ntk is None else [kernel.nngp, kernel.ntk]
    for name, array in zip(("nngp", "ntk"), found, strict=False):
        if np.shape(array) != shape:
            raise InvalidInput(f"kernel_fn: {name} of {shape[0]} and {shape[1]} examples has shape {np.shape(array)}; one number per pair "
                               "is needed: a network whose output is (n, features), or one that flattens or pools its sites")
    errors = [getattr(kernel, name, None) for name in ("error", "ntk_error")]
    return [*found, jnp.stack([jnp.zeros((), found[0].dtype) if e is None else jnp.max(jnp.asarray(e, found[0].dtype)) for e in errors])]


class Devices:
    """Runs a program on as many tiles at a time as there are devices."""

    def __init__(self, devices: Sequence[Any], layout: Layout) -> None:
        self.mesh = Mesh(np.asarray(devices, object), ("tile",))
        self.count, self._layout = len(devices), layout

    def compiled(self, program: ClosedJaxpr) -> Callable[[list[tuple[Any, ...]]], list[Any]]:
        """A function of inputs of up to ``count`` tiles to arrays stacked on axis 0, which may still be under way."""
        run = jaxpr_as_fun(program)
        spec = PartitionSpec("tile")
        alone = jax.shard_map(lambda *leaves: [a[None] for a in run(*(leaf[0] for leaf in leaves))], mesh=self.mesh, in_specs=spec,
                              out_specs=spec, check_vma=False)
        sharded, function = NamedSharding(self.mesh, spec), jax.jit(alone)

        def tiles(inputs: list[tuple[Any, ...]]) -> list[Any]:
            full = [*inputs, *[inputs[-1]] * (self.count - len(inputs))]
            leaves = [np.stack([leaf for leaf in column]) for column in zip(*map(jax.tree.leaves, full), strict=True)]
            return self.guarded(lambda: function(*(jax.device_put(leaf, sharded) for leaf in leaves)))

        return tiles

    def guarded(self, compute: Callable[[], Any]) -> Any:
        """What ``compute`` returns.

        Raises:
            OutOfMemory: where a device has too little memory for a tile; a smaller one is proposed.
        """
        try:
            return compute()
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and not any(text in str(error) for text in _EXHAUSTED):
                raise
            size = max(self._layout.tile)
            advice = f"try tile={max(size // 2, 1)}" if size > 1 else "even a single pair of examples does not fit"
            raise OutOfMemory(f"tile: {self.mesh.devices.flat[0]} has too little memory for tiles of {self._layout.tile[0]} x "
                              f"{self._layout.tile[1]} examples; {advice} ({str(error).splitlines()[0]})") from error


def part(x: Any, where: slice, size: int) -> Any:
    """Some rows of every array, the last one repeated up to ``size``."""
    def rows(array: Any) -> np.ndarray:
        found = np.asarray(array[where])
        return np.concatenate([found, np.repeat(found[-1:], size - len(found), 0)]) if len(found) < size else found

    return jax.tree.map(rows, x)


def inputs(x1: Any, x2: Any, layout: Layout, tile: Tile) -> tuple[Any, ...]:
    """The parts of the data that a tile is the kernel of: two, or one for a tile on the diagonal of a symmetric kernel."""
    rows, columns = layout.where(tile)
    one = part(x1, rows, layout.tile[0])
    return (one,) if on_diagonal(layout, tile) else (one, part(x1 if x2 is None else x2, columns, layout.tile[1]))


def on_diagonal(layout: Layout, tile: Tile) -> bool:
    return layout.symmetric and tile[0] == tile[1]
