"""Loss terms as networks: each is a function of the same parameters, at points of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput, SigpropError
from sigprop.network import Network, check_inputs

Terms = Mapping[str, tuple[Callable[[Any, Any], Any], Any, Any]]
"""By name ``(residual, points, targets)``: ``residual(params, points) -> [n, k]`` at ``points`` ``[n, coordinates]``; ``targets``
``[n, k]`` are what it should be, ``None`` for zero. The loss of a term is the mean of ``(residual - targets)**2``."""


def networks(net: Network, terms: Terms) -> dict[str, tuple[Network, np.ndarray]]:
    """For each term the network ``residual - targets`` with the parameters of ``net``, and its points.

    Raises:
        InvalidInput: naming the term and what is wrong with it.
    """
    if not isinstance(net, Network):
        raise InvalidInput(f"net: {type(net).__name__} is no network; make one of the solution u by sp.network")
    if not isinstance(terms, Mapping) or not terms:
        raise InvalidInput("terms: give a mapping from names to (residual, points, targets), with at least one term")
    return {name: _network(net, str(name), term) for name, term in terms.items()}


def _network(net: Network, name: str, term: Any) -> tuple[Network, np.ndarray]:
    if not isinstance(term, tuple) or len(term) != 3 or not callable(term[0]):
        raise InvalidInput(f"terms[{name!r}]: not (residual, points, targets) with a function residual(params, points)")
    residual, points, targets = term
    if not all(map(concrete, jax.tree.leaves((points, targets)))):
        raise InvalidInput(f"terms[{name!r}]: its points or targets are traced; call outside of jax.jit and jax.vmap")
    with named(name):
        check_inputs((points,))
        if isinstance(points, list | tuple | dict):
            raise InvalidInput("points: give one array [n, coordinates]")
        aval = _shape(net, residual, points)
        wanted = None if targets is None else _targets(targets, aval.shape)

    def apply(params: Any, x: Any) -> Any:
        y = residual(params, x)
        return y if wanted is None else y - jnp.asarray(wanted, y.dtype)

    return replace(net, apply=apply, name=name, example=(points,), _graphs={}), points


def _shape(net: Network, residual: Callable[[Any, Any], Any], points: Any) -> Any:
    try:
        aval = jax.eval_shape(residual, net.abstract_params, points)
    except SigpropError:
        raise
    except Exception as error:
        raise InvalidInput(f"residual: it raised on points of shape {np.shape(points)}: {type(error).__name__}: {error}") from error
    if not hasattr(aval, "shape") or len(aval.shape) != 2 or aval.shape[0] != len(points):
        raise InvalidInput(f"residual: it returned {getattr(aval, 'shape', type(aval).__name__)}; it must be [n, k] with n = {len(points)}")
    return aval


def _targets(targets: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.asarray(targets, float)
    if array.shape != shape:
        raise InvalidInput(f"targets: shape {array.shape}, but the residual is {shape}")
    if not np.all(np.isfinite(array)):
        raise InvalidInput("targets: has NaN or infinite entries")
    return array


@contextmanager
def named(name: str) -> Iterator[None]:
    """Errors raised inside name the term."""
    try:
        yield
    except SigpropError as error:
        raise type(error)(f"terms[{name!r}]: {error}") from error


def check_names(given: Any, wanted: tuple[str, ...]) -> None:
    """Refuse terms that lack a name.

    Raises:
        InvalidInput: naming it.
    """
    for name in wanted:
        if name not in given:
            raise InvalidInput(f"{name!r}: no such term; there are {', '.join(map(repr, given))}")
