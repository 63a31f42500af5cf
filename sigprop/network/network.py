"""A model as pure functions of its parameters, with the laws of those parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from sigprop.errors import InvalidInput, SigpropError
from sigprop.tracing import Graph, Row, rows, trace


@dataclass(frozen=True, eq=False)
class Network:
    """``init(key) -> params`` and ``apply(params, *x) -> y``, both pure and traceable.

    Attributes:
        name: class or function name.
        root: name scope that the model opens around everything, left out of module paths.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    name: str
    root: str = ""
    example: tuple[Any, ...] = ()
    declared: Any = None
    _graphs: dict[Any, Graph] = field(default_factory=dict, repr=False)

    @cached_property
    def abstract_params(self) -> Any:
        """Shapes and dtypes of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @cached_property
    def init_graph(self) -> Graph:
        return trace(self.init, jax.random.key(0))

    def graph(self, *x: Any) -> Graph:
        """The flat program of ``apply`` on inputs shaped like ``x``.

        Raises:
            InvalidInput: when the model does not run on such inputs.
        """
        key = str(jax.tree.map(lambda a: (np.shape(a), str(a.dtype)), x))
        if key not in self._graphs:
            try:
                self._graphs[key] = trace(self.apply, self.abstract_params, *x)
            except SigpropError:
                raise
            except Exception as error:
                shapes = [tuple(np.shape(a)) for a in jax.tree.leaves(x)]
                raise InvalidInput(f"model: {self.name} raised on inputs of shape {shapes}: {error}") from error
        return self._graphs[key]

    def rows(self, *x: Any) -> tuple[Row, ...]:
        graph = self.graph(*x)
        count = len(jax.tree.leaves(x))
        return rows(graph, graph.inputs[len(graph.inputs) - count:], self.root)

    @property
    def laws(self) -> Any:
        """Law of each parameter, in a tree like the parameters."""
        from sigprop.network.laws import law_table

        return law_table(self)


def check_inputs(x: tuple[Any, ...]) -> None:
    """Refuse what no prediction can be made for.

    Raises:
        InvalidInput: naming the input and what is wrong with it.
    """
    if not jax.tree.leaves(x):
        raise InvalidInput("x: give at least one example input, with the batch on axis 0")
    for number, array in enumerate(jax.tree.leaves(x)):
        if np.ndim(array) == 0:
            raise InvalidInput(f"x[{number}]: a scalar; inputs carry the batch on axis 0")
        if 0 in np.shape(array):
            raise InvalidInput(f"x[{number}]: shape {np.shape(array)} is empty; give at least one example")
        plain = not isinstance(array, jax.core.Tracer | jax.ShapeDtypeStruct)
        if plain and np.issubdtype(np.asarray(array).dtype, np.floating) and not np.all(np.isfinite(array)):
            raise InvalidInput(f"x[{number}]: has NaN or infinite entries; clean or mask the data first")
