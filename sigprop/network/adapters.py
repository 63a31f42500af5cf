"""From Flax models and plain functions to :class:`Network`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from sigprop.errors import InvalidInput
from sigprop.network.network import Network, check_inputs


def network(model: Any, *x: Any, init: Callable[..., Any] | None = None, params: Any = None, laws: Any = None,
            method: str = "__call__", **options: Any) -> Network:
    """A :class:`Network` from an unmodified model.

    Args:
        model: a factory ``rngs -> nnx.Module``, an ``nnx.Module``, a linen ``Module``, or a pure function ``(params, *x) -> y``.
        x: example inputs, batch on axis 0; needed for linen, whose parameters depend on them.
        init: for a pure function, ``key -> params``.
        params, laws: for a pure function, a tree of parameters and a tree of :class:`Law` like it.
        method: method to call on a Flax module.
        options: keyword arguments of that call, such as ``train=False``.

    Raises:
        InvalidInput: for an unusable model, option or input.
    """
    if x:
        check_inputs(x)
    if isinstance(model, nn.Module):
        return _linen(model, x, method, options)
    if isinstance(model, nnx.Module):
        return _instance(model, x, method, options)
    if init is not None or laws is not None:
        return _function(model, x, init, params, laws, options)
    if callable(model):
        return _factory(model, x, method, options)
    raise InvalidInput(f"model: {type(model).__name__} is neither a Flax module, a factory rngs -> nnx.Module, nor a function with init=")


def _function(apply: Callable[..., Any], x: tuple[Any, ...], init: Any, params: Any, laws: Any,
              options: dict[str, Any]) -> Network:
    if options:
        raise InvalidInput(f"unknown options {sorted(options)}: a pure function takes init=, params= and laws= only")
    name = getattr(apply, "__name__", "function")
    if laws is None:
        return Network(init, apply, name, example=x)
    if jax.tree.structure(params) != jax.tree.structure(laws, is_leaf=lambda n: hasattr(n, "variance")):
        raise InvalidInput("laws: their tree differs from that of params; give one Law per parameter")

    def sample(key: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(key, max(len(leaves), 1))
        given = jax.tree.leaves(laws, is_leaf=lambda n: hasattr(n, "variance"))
        return jax.tree.unflatten(tree, [law.mean + law.variance**0.5 * jax.random.normal(k, jnp.shape(p), jnp.result_type(p))
                                         for k, p, law in zip(keys, leaves, given, strict=True)])

    return Network(sample, apply, name, example=x, declared=laws)


def _linen(module: nn.Module, x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    if not x:
        raise InvalidInput("x: a linen module needs an example input, sp.network(module, x)")
    streams = ("params", "dropout")
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)

    def init(key: Any) -> Any:
        keys = dict(zip(streams, jax.random.split(key, 2), strict=True))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)
        return {"variables": module.init(keys, *zeros, method=method, **options), "dropout": keys["dropout"]}

    def apply(params: Any, *inputs: Any) -> Any:
        mutable = [c for c in params["variables"] if c != "params"]
        out = module.apply(params["variables"], *inputs, method=method, rngs={"dropout": params["dropout"]},
                           mutable=mutable, **options)
        return out[0]

    try:
        jax.eval_shape(init, jax.random.key(0))
    except Exception as error:
        shapes = [tuple(jnp.shape(a)) for a in jax.tree.leaves(x)]
        raise InvalidInput(f"model: {type(module).__name__} raised on inputs of shape {shapes} and options {options}: {error}") from error
    return Network(init, apply, type(module).__name__, type(module).__name__, example=x)


@contextmanager
def _named_calls(module: nnx.Module) -> Iterator[None]:
    """While tracing, open a name scope with its path around each submodule's call."""
    names = {id(m): "/".join(map(str, path)) for path, m in nnx.iter_modules(module) if path}
    classes = {type(m) for _, m in nnx.iter_modules(module)}
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


def _module_apply(graphdef: Any, method: str, options: dict[str, Any]) -> Callable[..., Any]:
    def apply(params: Any, *inputs: Any) -> Any:
        module = nnx.merge(graphdef, params)
        with _named_calls(module):
            return getattr(module, method)(*inputs, **options)
    return apply


def _factory(factory: Callable[..., Any], x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    def build(key: Any) -> Any:
        module = factory(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise InvalidInput(f"model: the factory returned {type(module).__name__}, not an nnx.Module; for a pure function give init=")
        module.eval()
        return nnx.split(module)

    try:
        graphdef, _ = nnx.eval_shape(lambda: build(jax.random.key(0)))
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"model: the factory raised when called with rngs: {error}") from error
    apply = _module_apply(graphdef, method, options)
    return Network(lambda key: build(key)[1], apply, getattr(factory, "__name__", "model"), example=x)


def _instance(module: nnx.Module, x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    """An instance has lost its initializers: constants stay, other parameters are redrawn with their own mean and variance."""
    graphdef, state = nnx.split(module)

    def redraw(key: Any) -> Any:
        leaves, tree = jax.tree.flatten(state)
        out = []
        for k, leaf in zip(jax.random.split(key, max(len(leaves), 1)), leaves, strict=True):
            plain = not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) and jnp.issubdtype(leaf.dtype, jnp.floating)
            if plain and leaf.size > 1 and float(jnp.std(leaf)) > 0:
                mean = float(jnp.mean(leaf)) if abs(float(jnp.mean(leaf))) > 5 * float(jnp.std(leaf)) / leaf.size**0.5 else 0.0
                leaf = mean + float(jnp.std(leaf)) * jax.random.normal(k, leaf.shape, leaf.dtype)
            out.append(leaf)
        return jax.tree.unflatten(tree, out)

    return Network(redraw, _module_apply(graphdef, method, options), type(module).__name__, example=x)
