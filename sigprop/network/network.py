"""A model as pure functions of its parameters, with the laws of those parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.errors import InvalidInput, SigpropError
from sigprop.network.checks import check_initializer, check_like, check_program, check_same
from sigprop.network.degree import depends_on_key
from sigprop.network.law import is_law
from sigprop.network.paths import parameter_paths
from sigprop.tracing import Graph, Row, rows, trace

if TYPE_CHECKING:
    from sigprop.network.law import Laws


@dataclass(frozen=True, eq=False, repr=False)
class Network:
    """``init(key) -> params`` and ``apply(params, *x) -> y``, both pure: they can be jitted and mapped over keys and parameters.

    Attributes:
        name: class or function name.
        root: name scope that the model opens around everything, left out of module paths.
        example: inputs that the network was made with, or empty.
        declared: per parameter leaf a :class:`Law`, an array that is kept as it is, or ``None`` where the law is read off ``init``.
            ``None`` in place of the list: all are read off ``init``.
        trained: per parameter leaf whether training moves it, as it moves ``nnx.Param`` and linen's collection ``params`` but not
            running statistics. ``None`` in place of the list: every floating leaf.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    name: str
    root: str = ""
    example: tuple[Any, ...] = ()
    declared: list[Any] | None = None
    trained: list[bool] | None = None
    _graphs: dict[Any, Graph] = field(default_factory=dict)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{jnp.result_type(a)}{list(jnp.shape(a))}" for a in jax.tree.leaves(self.example))
        return f"Network({self.name}{': ' if inputs else ''}{inputs})"

    @cached_property
    def abstract_params(self) -> Any:
        """Shapes and dtypes of the parameters."""
        return jax.eval_shape(self.init, jax.random.key(0))

    @cached_property
    def init_graph(self) -> Graph:
        """The flat program of ``init``.

        Raises:
            InvalidInput: when two tracings differ, or the key is ignored.
        """
        first, second = (trace(_fresh(self.init), jax.random.key(0)) for _ in range(2))
        check_same(first, second, f"the initializer of {self.name}")
        if self.declared is None:
            check_initializer(first, self.name, depends_on_key(first))
        return first

    @cached_property
    def random(self) -> list[bool]:
        """Per parameter leaf, whether it is drawn at random; random keys count."""
        given = self.declared or [None] * len(jax.tree.leaves(self.abstract_params))
        drawn = depends_on_key(self.init_graph) if any(g is None for g in given) else [False] * len(given)
        return [yes if law is None else is_law(law) and bool(np.any(law.variance)) for law, yes in zip(given, drawn, strict=True)]

    @cached_property
    def trainable(self) -> list[bool]:
        """Per parameter leaf, whether it has a tangent; random keys and counters have none."""
        leaves = jax.tree.leaves(self.abstract_params)
        return [jnp.issubdtype(leaf.dtype, jnp.floating) and moves for leaf, moves in zip(leaves, self.trained or [True] * len(leaves),
                                                                                         strict=True)]

    @property
    def trained_paths(self) -> list[str]:
        """Paths of the parameters that training moves, in the order of their leaves."""
        return [path for path, moves in zip(parameter_paths(self.abstract_params), self.trainable, strict=True) if moves]

    def graph(self, *x: Any) -> Graph:
        """The flat program of ``apply`` on inputs shaped like ``x``.

        Raises:
            InvalidInput: when the model does not run on such inputs, ignores its parameters, computes with integer inputs, or is not
                deterministic.
        """
        key = _like(x)
        if key not in self._graphs:
            if self.example:
                check_like(x, self.example)
            first, second = (self._trace(x) for _ in range(2))
            check_same(first, second, self.name)
            check_program(first, self.name, self.random)
            self._graphs[key] = first
        return self._graphs[key]

    def differentiable(self, *x: Any) -> tuple[Graph, tuple[Row, ...]]:
        """The flat program in which functions with derivative rules of their own stay whole, and its rows: those of :meth:`rows` that
        lie in no such function."""
        key = f"differentiable {_like(x)}"
        if key not in self._graphs:
            self.graph(*x)  # for its checks
            self._graphs[key] = self._trace(x, keep=("custom_jvp_call", "custom_vjp_call"))
        return self._graphs[key], self._rows(self._graphs[key], x)

    def _trace(self, x: tuple[Any, ...], keep: Collection[str] = ()) -> Graph:
        try:
            return trace(_fresh(self.apply), self.abstract_params, *x, keep=keep)
        except SigpropError:
            raise
        except Exception as error:
            shapes = [tuple(np.shape(a)) for a in jax.tree.leaves(x)]
            raise InvalidInput(f"model: {self.name} raised on inputs of shape {shapes}: {type(error).__name__}: {error}") from error

    def rows(self, *x: Any) -> tuple[Row, ...]:
        return self._rows(self.graph(*x), x)

    def _rows(self, graph: Graph, x: tuple[Any, ...]) -> tuple[Row, ...]:
        count = len(jax.tree.leaves(x))
        return rows(graph, graph.inputs[len(graph.inputs) - count:], self.root)

    @cached_property
    def laws(self) -> Laws:
        """Law of each parameter: by path, as a tree like the parameters, and as a table when printed."""
        from sigprop.network.laws import law_table

        return law_table(self)


def _like(x: tuple[Any, ...]) -> str:
    """Shapes and dtypes of inputs."""
    return str(jax.tree.map(lambda a: (np.shape(a), str(jnp.result_type(a))), x))


def _fresh(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function under a new identity, which JAX's cache of traces does not know."""
    return lambda *args: function(*args)
