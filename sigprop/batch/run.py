"""Batch studies: any function over a grid of parameters."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from importlib.metadata import version as installed
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sigprop.batch.grid import Block, Grid
from sigprop.batch.grid import grid as cut
from sigprop.batch.identity import digest
from sigprop.batch.store import Store
from sigprop.batch.work import Outcome, Program, compute
from sigprop.errors import InvalidInput
from sigprop.progress import progress as bars

_AHEAD = 64  # blocks that an executor holds at once


def run(grid: Mapping[str, Any], fn: Callable[..., Any], out: str | Path = "study.zarr", executor: Executor | None = None, *,
        static: Collection[str] = (), chunk: int = 256, dims: Mapping[str, Sequence[str]] | None = None, memory: int | None = None,
        version: str = "", progress: bool | None = None) -> xr.Dataset:
    """``fn(**point)`` at every point of a grid, into a zarr store.

    Numbers are traced: ``fn`` is compiled once, and mapped over them, for each combination of all other values, which it is given as they
    are. Numbers that sizes or branches depend on, such as a depth, are named in ``static``. Where nothing is traced ``fn`` is called as it
    is, and need not be a function that JAX can trace.

    A point that raises is NaN, and ``error`` says what it raised. What is finished is kept: after a kill or an interruption the same call
    goes on where it stopped. A store belongs to one study: the same function (name, source and what it captures), grid, precision of JAX,
    version of sigprop and ``version``.

    Args:
        grid: by parameter of ``fn``, a list of numbers or of values with names (strings, classes, dataclasses), or a mapping of names to
            values.
        fn: gives numbers or arrays, as a dictionary, another pytree or a dataset, of the same shapes at every point. Another process must
            be able to import it, as :mod:`pickle` requires, unless the executor sends functions in another way (dask).
        out: path of the store.
        executor: any :class:`concurrent.futures.Executor`, such as a ``ProcessPoolExecutor`` with a ``spawn`` context or dask's
            ``Client.get_executor()``, whose tasks survive the loss of a worker. This process by default.
        static: numeric parameters that are not traced.
        chunk: points computed at once, and stored as one; of a new store.
        dims: names of the axes of an output, ``NAME:0``, ``NAME:1``, ... by default.
        memory: bytes that a program may take, all of the machine's by default.
        version: of what ``fn`` calls, where that changes.
        progress: whether to show it, in terminals by default.

    Returns:
        The results over the grid, and ``error``, read from the store when used: ``xarray.open_zarr(out, consolidated=False)``.

    Raises:
        InvalidInput: for parameters that ``fn`` does not have, empty grids, a store of another study, outputs that differ in shape, what
            does not fit into memory or on the disk, and where every point fails.
        MissingDependency: where zarr is not installed.
    """
    for name, number in {"chunk": chunk, "memory": 1 if memory is None else memory}.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidInput(f"{name}: {number!r} given; it must be a whole number of 1 or more")
    asked = cut(grid, fn, tuple(static), chunk)
    parts = [(axis.name, axis.labels.tolist(), [] if axis.traced else axis.values, axis.traced) for axis in asked.axes]
    about = {"sigprop": installed("sigprop"), "jax": jax.__version__, "precision": str(jnp.result_type(float)), "version": version}
    key = digest(fn, parts, about["sigprop"], about["precision"], version)
    store = Store(Path(out), asked, key, about, dims or {})
    with _bar(progress) as bar:
        _fill(store, _programs(store.grid, fn, memory), executor or _Here(), bar)
    return store.dataset()


def _programs(grid: Grid, fn: Callable[..., Any], memory: int | None) -> Callable[[Block], Program]:
    call, points = uuid.uuid4().hex, prod(grid.block)

    def program(block: Block) -> Program:
        index = tuple(i for i, axis in zip(block.index, grid.axes, strict=True) if not axis.traced)
        return Program(call, index, fn, grid.static(block), points, memory)

    return program


def _fill(store: Store, program: Callable[[Block], Program], executor: Executor, bar: Progress) -> None:
    missing = (block for block in store.grid.blocks() if not store.finished[block.index])
    tasks = ((block, program(block), store.grid.traced(block)) for block in missing)
    task = bar.add_task("chunks", total=store.finished.size, completed=int(store.finished.sum()), failed=0)
    failures, held = 0, []
    for block, outcome in _outcomes(executor, tasks):
        failures += sum(map(bool, outcome.errors))
        bar.update(task, advance=1, failed=failures)
        if not outcome.values and not store.names:
            held.append((block, outcome))  # shapes are not known yet
            continue
        store.write(block, outcome)
        while held:
            store.write(*held.pop())
    if held:
        raise InvalidInput(f"fn: every point failed; {store.grid.point(held[0][0], 0)}: {held[0][1].errors[0]}")


def _outcomes(executor: Executor, tasks: Iterator[tuple[Block, Program, dict[str, np.ndarray]]]) -> Iterator[tuple[Block, Outcome]]:
    """Results as they come, with few tasks waiting, so that those of large grids are not all made at once."""
    running: dict[Future[Outcome], Block] = {}
    ahead = 1 if isinstance(executor, _Here) else _AHEAD
    try:
        while True:
            for block, program, traced in islice(tasks, ahead - len(running)):
                running[executor.submit(compute, program, traced)] = block
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        for future in running:
            future.cancel()


class _Here(Executor):
    """This process, task by task."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _bar(shown: bool | None) -> Progress:
    return bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[failed]} points failed"),
                TimeElapsedColumn(), TimeRemainingColumn(), shown=shown, transient=False)
