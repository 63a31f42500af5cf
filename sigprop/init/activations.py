"""Activations by name, and their Gaussian moments with the error checked."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete
from sigprop.errors import InvalidInput
from sigprop.gaussian import Function, moment1

Activation = str | Callable[[Any], Any]

NAMED: dict[str, Callable[[Any], Any]] = {
    "celu": jax.nn.celu, "elu": jax.nn.elu, "erf": jax.scipy.special.erf, "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True), "hard_sigmoid": jax.nn.hard_sigmoid, "hard_silu": jax.nn.hard_silu,
    "hard_tanh": jax.nn.hard_tanh, "identity": lambda x: x, "leaky_relu": jax.nn.leaky_relu, "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish, "relu": jax.nn.relu, "relu6": jax.nn.relu6, "selu": jax.nn.selu, "sigmoid": jax.nn.sigmoid, "silu": jax.nn.silu,
    "sin": jnp.sin, "soft_sign": jax.nn.soft_sign, "softplus": jax.nn.softplus, "swish": jax.nn.silu, "tanh": jnp.tanh,
}
_TOLERANCE = 1e-8  # relative error of a moment that is still given


class Moments(NamedTuple):
    """Of ``f(z)``, ``z`` Gaussian of mean 0: float64, shaped like the variances of ``z``."""

    mean: np.ndarray
    second: np.ndarray


def function(activation: Activation) -> Callable[[Any], Any]:
    """The activation itself.

    Raises:
        InvalidInput: for an unknown name, or what is no function.
    """
    if isinstance(activation, str):
        if activation not in NAMED:
            raise InvalidInput(f"activation: {activation!r} is none of {', '.join(NAMED)}; or give the function")
        return NAMED[activation]
    if not callable(activation) or not isinstance(activation, Hashable):
        raise InvalidInput(f"activation: {activation!r} is neither a hashable function nor one of {', '.join(NAMED)}")
    return activation


def exactly(f: Callable[[Any], Any], *key: Any) -> Function:
    """An elementwise function in float64 on the host, whatever JAX's precision and whatever is being traced."""
    def call(u: Any) -> np.ndarray:
        with jax.enable_x64(True), jax.ensure_compile_time_eval():
            try:
                u = np.asarray(u, np.float64)
                out = f(u)
                if not concrete(out):  # under vmap custom derivatives are traced all the same, unless compiled
                    out = jax.jit(f)(u)
                out = np.asarray(out, np.float64)
            except InvalidInput:
                raise
            except Exception as error:
                raise InvalidInput(f"activation: {f!r} is not a function of one array of real numbers: {error}") from error
        if out.shape != np.shape(u):
            raise InvalidInput(f"activation: {f!r} maps shape {np.shape(u)} to {out.shape}; it must act on each entry by itself")
        return out

    return Function(call, (*key, f))


@lru_cache(maxsize=128)
def derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``f'``, the same function whenever it is asked for."""
    def slope(u: Any) -> Any:
        try:
            return jax.jvp(f, (jnp.asarray(u),), (jnp.ones_like(u),))[1]
        except (TypeError, jax.errors.JAXTypeError) as error:
            raise InvalidInput(f"activation: JAX cannot differentiate {f!r}, write it with jax.numpy: {error}") from error

    return slope


def moments(activation: Activation, variance: Any) -> Moments:
    """E[f(z)] and E[f(z)^2] for ``z`` Gaussian of mean 0 and the given variances, to a relative error of 1e-8.

    Raises:
        InvalidInput: where E[f(z)^2] is infinite, or cannot be computed so well.
    """
    f, var = exactly(function(activation), "activation"), np.asarray(variance, np.float64)
    second, first = moment1([f, f], 0.0, var), moment1([f], 0.0, var)
    scale = second.value
    for found, size in ((second, scale), (first, np.sqrt(np.abs(scale)))):
        if not np.all(np.isfinite(found.value)) or not np.all(found.error <= _TOLERANCE * size):
            raise InvalidInput(
                f"activation: E[f(z)^2] of {activation!r} for Gaussian z is infinite or cannot be computed to {_TOLERANCE:g}: "
                f"{found.value} with an error of {found.error}; the activation must be finite and grow slower than exp(z^2/4) at unit "
                "variance"
            )
    return Moments(np.asarray(first.value), np.asarray(second.value))
