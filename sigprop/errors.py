"""Everything sigprop raises on purpose."""

from collections.abc import Iterable
from difflib import get_close_matches


class SigpropError(Exception):
    """Base class of the errors raised on purpose by sigprop."""


class InvalidInput(SigpropError, ValueError):
    """An argument is wrong: the message names it, what was given and what is allowed."""


class MissingRule(SigpropError, NotImplementedError):
    """The interpreter has no rule for a primitive: the message says where and how to add one."""


class Unsound(SigpropError, ValueError):
    """A prediction in the infinite-width limit would be wrong here: the message says why, with a way out."""


class MissingDependency(SigpropError, ImportError):
    """An optional package is not installed: the message says how to install it."""


class StorageFailed(SigpropError, OSError):
    """A result could not be written, or what is stored cannot be read: the message says where, and how to go on."""


class OutOfMemory(SigpropError, MemoryError):
    """A device has too little memory: the message says for what, and proposes something smaller."""


def hint(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'that'?`` for a message about a name that is none of those known, or nothing."""
    close = get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
