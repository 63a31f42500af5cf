"""Flax NNX modules and factories as networks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx

from sigprop.errors import InvalidInput
from sigprop.network.network import Network
from sigprop.network.options import check_method
from sigprop.network.sampling import drawn, laws_of_arrays


def factory_network(factory: Callable[..., Any], x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    """The network of ``factory(rngs)``, whose parameters are the module's state."""
    name = getattr(factory, "__name__", type(factory).__name__)
    call = _with_rngs(factory)

    def build(key: Any) -> Any:
        module = call(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise InvalidInput(f"model: the factory {name} returned {type(module).__name__}, not an nnx.Module; for a pure function "
                               "give init=, and a linen module itself")
        return nnx.split(_in_mode(module, method, options))

    try:
        graphdef, state = nnx.eval_shape(lambda: build(jax.random.key(0)))
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"model: the factory {name} raised when called with rngs: {type(error).__name__}: {error}"
                           f"{_advice(factory)}") from error
    return Network(lambda key: build(key)[1], _apply(graphdef, method, options), name, example=x, trained=_trained(state))


def _advice(factory: Callable[..., Any]) -> str:
    """For a function of two arguments or more, which is no factory."""
    try:
        needed = [p for p in inspect.signature(factory).parameters.values() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    except (TypeError, ValueError):
        return ""
    return "; a function apply(params, x) takes init=, key -> params, or params=" if len(needed) > 1 and needed[0].name != "rngs" else ""


def instance_network(module: nnx.Module, x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    """The network of an instance, with laws measured on its own arrays; the instance itself is not changed."""
    copy = _in_mode(nnx.merge(*nnx.split(module)), method, options)
    graphdef, state = nnx.split(copy)
    declared = laws_of_arrays(state)
    init = drawn(lambda key: state, declared)
    return Network(init, _apply(graphdef, method, options), type(module).__name__, example=x, declared=declared, trained=_trained(state))


def _trained(state: Any) -> list[bool]:
    """Per leaf, whether it is an ``nnx.Param``."""
    variables = jax.tree.leaves(state, is_leaf=lambda v: isinstance(v, nnx.Variable))
    return [isinstance(v, nnx.Param) for v in variables for _ in jax.tree.leaves(v)]


def _with_rngs(factory: Callable[..., Any]) -> Callable[[nnx.Rngs], Any]:
    """Pass ``rngs`` by name where the factory takes it only so, as Flax's own layers do."""
    try:
        found = inspect.signature(factory.__init__ if isinstance(factory, type) else factory).parameters.get("rngs")
    except (TypeError, ValueError):
        found = None
    by_name = found is not None and found.kind is found.KEYWORD_ONLY
    return (lambda rngs: factory(rngs=rngs)) if by_name else factory


def _in_mode(module: nnx.Module, method: str, options: dict[str, Any]) -> nnx.Module:
    check_method(type(module), method, options)
    training = bool(options.get("train", False)) and "train" not in inspect.signature(getattr(module, method)).parameters
    (module.train if training else module.eval)()
    return module


def _apply(graphdef: Any, method: str, options: dict[str, Any]) -> Callable[..., Any]:
    def apply(params: Any, *inputs: Any) -> Any:
        module = nnx.merge(graphdef, params)
        call = getattr(module, method)
        known = inspect.signature(call).parameters
        given = {k: v for k, v in options.items() if k != "train" or "train" in known}
        with _named_calls(module):
            return call(*inputs, **given)
    return apply


@contextmanager
def _named_calls(module: nnx.Module) -> Iterator[None]:
    """While tracing, open a name scope with its path around each submodule's call."""
    names = {id(m): "/".join(map(str, path)) for path, m in nnx.iter_modules(module) if path}
    classes = {c for _, m in nnx.iter_modules(module) for c in type(m).__mro__}
    saved = {c: c.__dict__["__call__"] for c in classes if "__call__" in c.__dict__}
    open_paths = [""]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            path = names.get(id(self), "")
            outer = open_paths[-1]
            if not path or path == outer:
                return original(self, *args, **kwargs)
            relative = path[len(outer) + 1:] if outer and path.startswith(outer + "/") else path
            open_paths.append(path)
            try:
                with jax.named_scope(relative):
                    return original(self, *args, **kwargs)
            finally:
                open_paths.pop()
        return call

    try:
        for c, original in saved.items():
            c.__call__ = wrap(original)  # type: ignore[method-assign]
        yield
    finally:
        for c, original in saved.items():
            c.__call__ = original  # type: ignore[method-assign]
