"""Flax linen modules as networks."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sigprop.errors import InvalidInput
from sigprop.network.network import Network
from sigprop.network.options import check_method


def linen_network(module: nn.Module, x: tuple[Any, ...], method: str, options: dict[str, Any]) -> Network:
    """The parameters are ``{"variables": collections, "rngs": keys}``: what ``init`` makes, and keys for dropout and other draws.

    Mutable collections such as ``batch_stats`` are inputs; what a call writes into them is dropped.
    """
    if not x:
        raise InvalidInput("x: a linen module needs an example input, sp.network(module, x)")
    options = _options(module, method, options)
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), x)

    def init(key: Any) -> Any:
        params, *others = jax.random.split(key, 3)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), abstract)
        made = module.init({"params": params, "dropout": others[0]}, *zeros, method=method, **options)
        return {"variables": made, "rngs": dict(zip(("dropout", "params"), others, strict=True))}

    def apply(params: Any, *inputs: Any) -> Any:
        mutable = [c for c in params["variables"] if c != "params"]
        return module.apply(params["variables"], *inputs, method=method, rngs=params["rngs"], mutable=mutable, **options)[0]

    try:
        shapes = jax.eval_shape(init, jax.random.key(0))
    except Exception as error:
        given = [tuple(jnp.shape(a)) for a in jax.tree.leaves(x)]
        raise InvalidInput(f"model: {type(module).__name__} raised on inputs of shape {given} and options {options}: "
                           f"{type(error).__name__}: {error}") from error
    trained = [jax.tree_util.keystr(path[:2], simple=True, separator="/") == "variables/params"
               for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    return Network(init, apply, type(module).__name__, type(module).__name__, example=x, trained=trained)


def _options(module: nn.Module, method: str, options: dict[str, Any]) -> dict[str, Any]:
    """``train`` has many names in linen: translate it where the call has one of them."""
    names = check_method(type(module), method, options)
    if "train" not in options or "train" in names:
        return options
    rest = {k: v for k, v in options.items() if k != "train"}
    for name, value in (("training", options["train"]), ("is_training", options["train"]), ("deterministic", not options["train"])):
        if name in names:
            return {**rest, name: value}
    raise InvalidInput(f"unknown options ['train']: {type(module).__name__}.{method} takes {sorted(names) or 'none'}")
