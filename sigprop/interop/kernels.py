"""Kernels of sigprop as kernel functions of neural-tangents, and the reverse.

Sites are ordered ``[n1, n2, *sites1, *sites2]`` here and ``[n1, n2, h1, h2, w1, w2, ...]`` there.
"""

from __future__ import annotations

import inspect
from collections import namedtuple
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from sigprop.errors import InvalidInput
from sigprop.infinite import infinite_kernel
from sigprop.network import Network
from sigprop.types import Kernel

_NAMES = ("nngp", "ntk")


def kernel_fn_of(kernel: Network | Callable[..., Kernel], **options: Any) -> Callable[..., Any]:
    """``kernel_fn(x1, x2=None, get=None)`` as ``nt.predict`` and ``nt.batch`` take it.

    It returns an array where ``get`` is ``"nngp"`` or ``"ntk"``, else a named tuple of those in ``get`` (None: of all there are).

    Args:
        kernel: a network, for its infinite-width kernel, or any ``kernel(x1, x2=None) -> Kernel``.
        options: keywords of :func:`sigprop.infinite_kernel` (or of ``kernel``), like ``parameterization="ntk"``, which is stax's default;
            not those that change the shapes of kernels.

    Raises:
        InvalidInput: by ``kernel_fn``, where ``get`` asks for what the kernel does not have.
    """
    if isinstance(kernel, Network):
        of_all, of_nngp = (infinite_kernel(kernel, ntk=ntk, **options) for ntk in (True, False))
    else:
        of_all = of_nngp = partial(kernel, **options)

    def kernel_fn(x1: Any, x2: Any = None, get: str | Sequence[str] | None = None) -> Any:
        asked = _NAMES if get is None else (get,) if isinstance(get, str) else tuple(get)
        if not asked or not set(asked) <= set(_NAMES):
            raise InvalidInput(f"get: {get!r} given; 'nngp', 'ntk', a tuple of them or None is allowed")
        compute = of_all if "ntk" in asked else of_nngp
        found = {name: value for name, value in compute(x1, x2)._asdict().items() if name in asked and value is not None}
        if get is not None and set(found) != set(asked):
            raise InvalidInput(f"get: {get!r} given, but this kernel has no NTK (Kernel.ntk is None)")
        arrays = {name: _paired(found[name]) for name in asked if name in found}
        return arrays[get] if isinstance(get, str) else namedtuple("AnalyticKernel", arrays)(**arrays)

    return kernel_fn


def kernel_of(kernel_fn: Callable[..., Any]) -> Callable[..., Kernel]:
    """``kernel(x1, x2=None) -> Kernel`` of a ``kernel_fn`` of ``nt.stax`` (or any with its signature), NNGP and NTK.

    Outputs with sites are computed with all their pairs, also where stax by itself gives equal sites only. The errors are 0: stax's kernels
    are closed forms, but for the few layers that integrate numerically and do not say how well.
    """
    stax = "diagonal_spatial" in inspect.signature(kernel_fn).parameters
    names = (*_NAMES, "is_reversed", "diagonal_spatial") if stax else _NAMES

    def kernel(x1: Any, x2: Any = None) -> Kernel:
        found = kernel_fn(x1, x2, names)
        if stax and found.nngp.ndim > 2 and found.diagonal_spatial:
            found = kernel_fn(x1, x2, names, diagonal_spatial=False)
        nngp, ntk = (_grouped(a, stax and found.is_reversed) for a in (found.nngp, found.ntk))
        zero = jnp.zeros((), nngp.dtype)
        return Kernel(nngp, ntk, zero, zero)

    return kernel


def _paired(a: Any) -> Any:
    sites = (a.ndim - 2) // 2
    return a.transpose(0, 1, *(k for s in range(sites) for k in (2 + s, 2 + sites + s)))


def _grouped(a: Any, reverse: bool) -> Any:
    """Undoes ``_paired``; stax may have kept the pairs in reversed order."""
    first = range(2, a.ndim, 2)[:: -1 if reverse else 1]
    return a.transpose(0, 1, *first, *(k + 1 for k in first))
