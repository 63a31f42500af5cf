"""Kernel matrices too large for memory: computed by tiles, stored, taken up again after a kill, read lazily."""

from sigprop.gram.gram import gram
from sigprop.gram.stored import Gram, open_gram

__all__ = ["Gram", "gram", "open_gram"]
