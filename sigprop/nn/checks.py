"""Refusing arguments of modules, with an error that names the argument, what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole


def checked_widths(name: str, widths: Any, least: int = 1) -> tuple[int, ...]:
    """Widths as a tuple.

    Raises:
        InvalidInput: where they are fewer than ``least``, or not all whole numbers of 1 or more.
    """
    if not isinstance(widths, Sequence) or isinstance(widths, str) or len(widths) < least:
        raise InvalidInput(f"{name}: {widths!r} given; it must be a sequence of {least} or more whole numbers")
    for width in widths:
        check_whole(name, width)
    return tuple(int(width) for width in widths)


def check_divides(name: str, value: int, whole: int, what: str) -> None:
    """Refuse a number that does not divide ``whole``.

    Raises:
        InvalidInput: naming both.
    """
    check_whole(name, value)
    if whole % value:
        raise InvalidInput(f"{name}: {value} given, it does not divide the {whole} {what}")


def check_callable(**given: Any) -> None:
    """Refuse arguments that cannot be called, such as names of activations.

    Raises:
        InvalidInput: naming the first.
    """
    for name, value in given.items():
        if not callable(value):
            raise InvalidInput(f"{name}: {value!r} given; it must be a function, not {type(value).__name__}")


def one_for_each(name: str, given: Any, count: int, made: str, places: str) -> tuple[Any, ...]:
    """A sequence of ``count``, or ``count`` times the one that is given for all.

    Raises:
        InvalidInput: for a sequence of another length.
    """
    every = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,) * count
    if len(every) != count:
        raise InvalidInput(f"{name}: {len(every)} {made} given for {count} {places}; give one for each, or one for all")
    return every


def check_instance(name: str, value: Any, kind: type, examples: str) -> None:
    """Refuse an option of another kind.

    Raises:
        InvalidInput: naming the option and some of those allowed.
    """
    if not isinstance(value, kind):
        raise InvalidInput(f"{name}: {value!r} given; it must be one of {examples}")
