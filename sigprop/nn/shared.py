"""Types and defaults that modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sigprop.init.independent import Constant
from sigprop.init.scaling import he, lecun, xavier

Init = Callable[..., Any]  # an initializer of sp.init or Flax: (key, shape, dtype) -> array
Activation = Callable[[Any], Any]
NormMaker = Callable[..., Any]  # (features, *, rngs) -> a module
LayerMaker = Callable[..., Any]  # (in_features, out_features, *, kernel_init, bias_init, rngs) -> a module

ZEROS = Constant(0.0)
ONES = Constant(1.0)
HE = he()
LECUN = lecun()
XAVIER = xavier()


def same(x: Any) -> Any:
    """The identity, where a layer is left out."""
    return x
