"""The only file that depends on JAX's version or private modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jax._src import source_info_util
from jax._src.nn import initializers
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive, jaxpr_as_fun

_NAMED = ("/jax/_src/nn/functions.py", "/flax/linen/activation.py", "/flax/linen/pooling.py")
_HIDDEN = ("/flax/", "/jax/", "/sigprop/", "/orbax/", "/optax/")


def user_source(equation: Any) -> str:
    """``file.py:line (function)`` of the innermost frame that is neither JAX's nor Flax's."""
    frames = list(source_info_util.user_frames(equation.source_info.traceback))
    own = [f for f in frames if not any(h in f.file_name for h in _HIDDEN)] or frames
    if not own:
        return "unknown"
    return f"{own[0].file_name.rsplit('/', 1)[-1]}:{own[0].start_line} ({own[0].function_name})"


def library_call(equation: Any) -> str:
    """Name of the library's activation or pooling function that the user called and the equation is a step of, else empty."""
    traceback, found = equation.source_info.traceback, ""
    for frame in traceback.frames if traceback is not None else ():
        if not any(h in frame.file_name for h in _HIDDEN):
            break
        if any(frame.file_name.endswith(name) for name in _NAMED) and not frame.function_name.startswith(("_", "<")):
            found = frame.function_name
    return found


def name_stack(equation: Any) -> str:
    """Names opened by ``jax.named_scope``, joined by ``/``, without marks of transformations."""
    parts = str(equation.source_info.name_stack).split("/")
    return "/".join(p for p in parts if p and "(" not in p and ")" not in p)


def part_of(jaxpr: Any, equations: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Callable[..., Sequence[Any]]:
    """Some equations of a program as a function of arrays."""
    part = Jaxpr((), list(inputs), list(outputs), list(equations), debug_info=jaxpr.debug_info.with_unknown_names())
    return jaxpr_as_fun(ClosedJaxpr(part, ()))


@contextmanager
def counting() -> Iterator[list[tuple[tuple[int, ...], tuple[float, float]]]]:
    """Shapes for which ``jax.nn.initializers.variance_scaling`` was called meanwhile, with the fan-in and fan-out that it counted.

    It is told by a function of JAX that is replaced meanwhile, in all threads; nothing is told where JAX has no such function.
    """
    calls: list[tuple[tuple[int, ...], tuple[float, float]]] = []
    original = getattr(initializers, "_compute_fans", None)

    def compute_fans(shape: Any, *args: Any, **kwargs: Any) -> Any:
        fans = original(shape, *args, **kwargs)  # type: ignore[misc]
        calls.append((tuple(shape), (float(fans[0]), float(fans[1]))))
        return fans

    if original is None:
        yield calls
        return
    try:
        initializers._compute_fans = compute_fans
        yield calls
    finally:
        initializers._compute_fans = original


__all__ = ["ClosedJaxpr", "Jaxpr", "Literal", "Primitive", "counting", "jaxpr_as_fun", "library_call", "name_stack", "part_of",
           "user_source"]
