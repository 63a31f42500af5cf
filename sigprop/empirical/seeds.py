"""Kernels averaged over draws of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sigprop.arrays import concrete, host
from sigprop.empirical.kernel import empirical_kernel
from sigprop.empirical.stream import streamed
from sigprop.errors import InvalidInput
from sigprop.network import Network, check_inputs, check_pair
from sigprop.types import Kernel, KernelSample


def monte_carlo_kernel(net: Network, seeds: int = 64, key: Any = None, **options: Any) -> Callable[..., KernelSample]:
    """``kernel(x1, x2=None)``: mean of :func:`empirical_kernel` over ``seeds`` draws of the parameters, with standard errors.

    One compiled function serves all seeds, so that memory does not grow with them. Works under ``jax.jit``.

    Args:
        options: of :func:`empirical_kernel`.

    Raises:
        InvalidInput: for fewer than two seeds, and as :func:`empirical_kernel`.
    """
    if seeds < 2:
        raise InvalidInput(f"seeds: {seeds} given; standard errors need at least 2")
    single = empirical_kernel(net, **options)
    keys = jax.random.split(jax.random.key(0) if key is None else key, seeds)

    def kernel(x1: Any, x2: Any = None) -> KernelSample:
        check_inputs((x1,))
        if x2 is not None:
            check_pair(x1, x2)
        arrays = [a for a in jax.tree.leaves((x1, x2, keys))]
        net.graph(*(x1 if isinstance(x1, tuple) else (x1,)))  # its trace is kept, and must not be made of another trace's values

        def one(k: Any) -> tuple[Any, Any]:
            found = single(net.init(k), x1, x2)
            return found.nngp, found.ntk

        mean, stderr = streamed(one, keys, all(map(concrete, arrays)), lambda found: jax.tree.map(host, found))
        if concrete(mean[0]) and np.isnan(mean[0]).any():
            single(net.init(keys[0]), x1, x2)  # says why
        (nngp, ntk), (nngp_error, ntk_error) = (jax.tree.map(jnp.asarray, pair) for pair in (mean, stderr))
        zero = jnp.zeros_like(nngp_error)
        return KernelSample(Kernel(nngp, ntk, nngp_error, ntk_error), Kernel(nngp_error, ntk_error, zero, zero))

    return kernel
