"""From Flax models and plain functions to :class:`Network`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax

from sigprop.errors import InvalidInput
from sigprop.network.checks import check_inputs
from sigprop.network.network import Network
from sigprop.network.sampling import drawn, laws_of_arrays, match


def network(model: Any, *x: Any, init: Callable[..., Any] | None = None, params: Any = None, laws: Any = None,
            method: str = "__call__", **options: Any) -> Network:
    """A :class:`Network` from an unmodified model.

    Flax modules run in evaluation mode; ``train=True`` asks for training mode (dropout drawn, statistics of the batch). In an
    ``nnx.Module`` instance the initializers are gone: arrays of equal numbers and single numbers stay as they are, every other
    floating parameter is redrawn from a Gaussian with the mean and variance of its own entries, and its law says ``measured``. Give
    the factory instead to have the laws of the initializers.

    Args:
        model: a factory ``rngs -> nnx.Module``, an ``nnx.Module``, a linen ``Module``, or a pure function ``(params, *x) -> y``.
        x: example inputs (arrays or pytrees of arrays), batch on axis 0; needed for linen, whose parameters depend on them.
        init: for a pure function, ``key -> params``; the laws are read off it.
        params: for a pure function without ``init``, a tree of parameters; laws that are not declared are measured on their entries.
        laws: for a pure function, a tree like the parameters of :class:`Law`, which may lack leaves; it goes before ``init``.
        method: method to call on a Flax module.
        options: keyword arguments of that call, such as ``train=False`` or ``deterministic=True``.

    Raises:
        InvalidInput: for an unusable model, option, law or input.
    """
    if x:
        check_inputs(x)
    linen, nnx = _is_module(model, "flax.linen"), _is_module(model, "flax.nnx")
    if linen or nnx:
        if init is not None or params is not None or laws is not None:
            raise InvalidInput("init, params, laws: a Flax module has its own; they are for pure functions apply(params, *x)")
        return _linen(model, x, method, options) if linen else _nnx("instance_network", model, x, method, options)
    if init is not None or laws is not None or params is not None:
        return _function(model, x, init, params, laws, options)
    if isinstance(model, type) and "flax.linen" in sys.modules and issubclass(model, sys.modules["flax.linen"].Module):
        raise InvalidInput(f"model: {model.__name__} is a linen class; give an instance, {model.__name__}(...)")
    if callable(model):
        return _nnx("factory_network", model, x, method, options)
    raise InvalidInput(f"model: {type(model).__name__} is neither a Flax module, a factory rngs -> nnx.Module, nor a function with init=")


def _is_module(model: Any, library: str) -> bool:
    """Whether ``model`` is a module of a library, which then has been imported: sigprop itself imports neither before it must."""
    return library in sys.modules and isinstance(model, sys.modules[library].Module)


def _linen(*args: Any) -> Network:
    from sigprop.network.linen_model import linen_network

    return linen_network(*args)


def _nnx(name: str, *args: Any) -> Network:
    from sigprop.network import nnx_model

    return getattr(nnx_model, name)(*args)


def _function(apply: Any, x: tuple[Any, ...], init: Any, params: Any, laws: Any, options: dict[str, Any]) -> Network:
    if not callable(apply):
        raise InvalidInput(f"model: {type(apply).__name__} is not a function apply(params, *x)")
    if options:
        raise InvalidInput(f"unknown options {sorted(options)}: a pure function takes init=, params= and laws= only")
    if (init is None) == (params is None):
        raise InvalidInput("init, params: give one of them: init=key -> params, or params=a tree of arrays, with or without laws=")
    if init is not None and not callable(init):
        raise InvalidInput(f"init: {type(init).__name__} is not a function key -> params")
    name = getattr(apply, "__name__", type(apply).__name__)
    if laws is None and init is not None:
        return Network(_checked(init, name), apply, name, example=x)
    base = _checked(init, name) if init is not None else lambda key: params
    template = jax.eval_shape(base, jax.random.key(0))
    declared = match(laws, template)
    if params is not None:
        declared = [m if law is None else law for law, m in zip(declared, laws_of_arrays(params), strict=True)]
    return Network(drawn(base, declared), apply, name, example=x, declared=declared)


def _checked(init: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    try:
        shapes = jax.eval_shape(init, jax.random.key(0))
    except Exception as error:
        raise InvalidInput(f"init: the initializer of {name} raised when called with a key: {type(error).__name__}: {error}") from error
    if not jax.tree.leaves(shapes):
        raise InvalidInput(f"init: the initializer of {name} returned no arrays")
    return init
