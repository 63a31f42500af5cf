"""neural-tangents 0.6.5 (Novak et al. 2020), its last release, on current JAX and without TensorFlow.

What it misses is supplied inside its own modules only: names that moved or are gone (``_supplied``), and three functions of its empirical
kernels that used JAX's internals (``_replaced``), written here on the public ones.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from math import prod
from threading import Lock
from types import ModuleType, SimpleNamespace
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import scipy.linalg
from jax.core import ShapedArray
from jax.interpreters.ad import UndefinedPrimal, Zero

from sigprop.errors import MissingDependency
from sigprop.interop.overlay import import_over

INSTALL = "pip install frozendict && pip install --no-deps neural-tangents==0.6.5"
_NAME = "neural_tangents"
_LOCK = Lock()


def load() -> ModuleType:
    """The module ``neural_tangents``; afterwards ``import neural_tangents`` gives the same one.

    Complete but for ``neural_tangents.experimental``, which needs TensorFlow and is empty. Neither JAX nor SciPy is changed.

    Raises:
        MissingDependency: where it or frozendict is not installed.
    """
    with _LOCK:
        if _NAME in sys.modules:
            return sys.modules[_NAME]
        absent = [name for name in (_NAME, "frozendict") if find_spec(name) is None]
        if absent:
            raise MissingDependency(f"{' and '.join(absent)} not installed: {INSTALL} (without its dependencies, which include TensorFlow)")
        module = import_over(_NAME, _supplied(), without=(f"{_NAME}.experimental",))
        empirical = sys.modules[f"{_NAME}._src.empirical"]
        vars(empirical).update(_replaced(empirical))
        return module


def _supplied() -> dict[str, Any]:
    core = {f"jax.core.{name}": getattr(jax.extend.core, name) for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")}
    return core | {
        "jax.core.DShapedArray": type("DShapedArray", (), {}),  # dynamic shapes are gone: nothing is an instance
        "jax.core.eval_context": jax.ensure_compile_time_eval,
        "jax.interpreters.ad.zeros_like_p": jax.extend.core.Primitive("zeros_like"),  # a key of rules for an equation that is gone
        "jax.interpreters.ad.config": SimpleNamespace(jax_enable_checks=False),  # the checks themselves are gone
        "jax.interpreters.ad.source_info_util": SimpleNamespace(transform_name_stack=nullcontext),
        "jax.numpy.dtype": jnp.result_type,  # asked for that of an array
        "jax.numpy.shape": _shape,
        "jax.numpy.size": lambda a, axis=None: prod(_shape(a)) if axis is None else _shape(a)[axis],
        "jax.util.safe_map": lambda f, *rows: [f(*row) for row in zip(*rows, strict=True)],
        "jax.util.safe_zip": lambda *rows: list(zip(*rows, strict=True)),
        "scipy.linalg.eigvalsh": lambda a, eigvals: scipy.linalg.eigvalsh(a, subset_by_index=eigvals),
    }


def _shape(a: Any) -> tuple[int, ...]:
    """Also of what has a shape but is no array."""
    return a.shape if hasattr(a, "shape") else jnp.shape(a)


def _replaced(empirical: ModuleType) -> dict[str, Callable[..., Any]]:
    def primals_and_pullback(fn: Callable[..., Any], mode: Any, _j_rules: bool, _s_rules: bool, _fwd: bool | None, *primals: Any) -> Any:
        """Output of ``fn``, and the function that collects per-equation derivatives (by ``mode``) from output cotangents."""
        with jax.disable_jit():  # so that no equation of the linear program is a call
            out, linear = jax.linearize(fn, *primals)
            program = jax.make_jaxpr(linear)(*primals)

        def pullback(*cotangents: Any) -> Any:
            unknown = [UndefinedPrimal(v.aval) for v in program.jaxpr.invars]
            found = empirical._backward_pass(
                program.jaxpr, mode=mode, consts=program.consts, primals_in=unknown, cotangents_in=tuple(jax.tree.leaves(cotangents)),
                _j_rules=_j_rules, _s_rules=_s_rules, _fwd=_fwd)
            return jax.tree.unflatten(jax.tree.structure(primals), found)

        return out, pullback

    return {"_get_primals_out_and_pullback": primals_and_pullback, "_eqn_vjp_fn": _cotangents, "_get_flops": _flops}


def _cotangents(eqn: Any, cotangent: Any, *values: Any) -> Any:
    """Cotangents of the inputs of a linear equation (None: identity): arrays where ``values`` are undefined, else None."""
    if eqn is None:
        return (cotangent,)
    if isinstance(cotangent, Zero):
        return [Zero(v.aval) for v in eqn.invars]
    linear = [k for k, value in enumerate(values) if isinstance(value, UndefinedPrimal)]
    # Values known by shape alone are those on which the cotangents do not depend.
    full = [jnp.zeros(v.shape, v.dtype) if isinstance(v, ShapedArray) else v for v in values]

    def apply(*arguments: Any) -> Any:
        for k, argument in zip(linear, arguments, strict=True):
            full[k] = argument
        return eqn.primitive.bind(*full, **eqn.params)

    found = jax.linear_transpose(apply, *(jax.ShapeDtypeStruct(values[k].aval.shape, values[k].aval.dtype) for k in linear))(cotangent)
    cotangents: list[Any] = [None] * len(values)
    for k, one in zip(linear, found, strict=True):
        cotangents[k] = one
    return cotangents


def _flops(f: Callable[..., Any], optimize: bool, *args: Any, **kwargs: Any) -> float:
    lowered = jax.jit(f).lower(*args, **kwargs)
    analysis = (lowered.compile() if optimize else lowered).cost_analysis() or {}
    return analysis.get("flops", float("inf"))
