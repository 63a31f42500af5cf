"""What the tests and the table need to know about a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import sigprop as sp


@dataclass(frozen=True)
class Architecture:
    """A family of models of one kind, one for each width.

    Attributes:
        api: ``nnx``, ``linen`` or ``function``.
        model: ``width ->`` a linen module, an nnx factory ``rngs -> module``, or a pure function ``(params, *x) -> y``.
        inputs: the example inputs, real data where there is some, batch on axis 0.
        init: for a pure function, ``width -> (key -> params)``.
        options: keyword arguments of the call, such as ``train=False``.
        averaged: how many channels the narrowest average over channels takes, per unit of width: a bottleneck of a quarter of the
            width, or a norm over one of four groups of channels, is 1/4. Finite-width corrections fall as ``1 / (averaged * width)``.
        sites: the most positions of a layer; whatever has more has channels on a site axis.
    """

    api: str
    model: Callable[[int], Any]
    inputs: Callable[[], tuple[Any, ...]]
    init: Callable[[int], Callable[[Any], Any]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    averaged: float = 1.0
    sites: int = 64

    def network(self, width: int) -> sp.Network:
        """The model of this width as a :class:`sigprop.Network`."""
        init = None if self.init is None else self.init(width)
        return sp.network(self.model(width), *self.inputs(), init=init, **self.options)
