"""What an adaptive optimizer does with gradients of known size: its second-moment state and its first step.

Parameters stay as they are while the state is filled; every step has a fresh minibatch. The state is then exact. The first step depends
on the law of a gradient beyond its variance only where epsilon matters; there it is taken to be normal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sigprop.errors import InvalidInput

DEFAULTS: dict[str, dict[str, float]] = {  # those of optax
    "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "lr": 1e-3},
    "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "lr": 1e-3, "weight_decay": 1e-4},
    "rmsprop": {"decay": 0.9, "eps": 1e-8, "lr": 1e-3},
    "adafactor": {"eps": 1e-30, "lr": 1e-3},
}
_WITHOUT = {
    "lion": "it holds no second moment: every entry moves by lr, whatever the gradient", "sgd": "it holds no second moment: it moves by "
    "lr times the gradient", "momentum": "it holds no second moment", "signsgd": "it holds no second moment: every entry moves by lr",
    "sign_sgd": "it holds no second moment: every entry moves by lr", "noisy_sgd": "it holds no second moment", "rprop": "it holds step "
    "sizes and no second moment", "lars": "it holds no second moment",
}
_BELOW = {"b1": 1.0, "b2": 1.0, "decay": 1.0}


@dataclass(frozen=True)
class Optimizer:
    """One of :data:`DEFAULTS`, with its options."""

    name: str
    options: Mapping[str, float]

    def __getitem__(self, option: str) -> float:
        return self.options[option]

    @property
    def floor(self) -> float:
        """Size of a gradient below which epsilon rules its step."""
        return self["eps"] ** 0.5 if self.name in ("rmsprop", "adafactor") else self["eps"]

    def state(self, square: Any, steps: int) -> Any:
        """E of the stored second moment after ``steps`` gradients with E[g²] = ``square``."""
        if self.name == "adafactor":  # its decay 1 - t^-0.8 forgets the initial state at the first step
            return square + self["eps"]
        return square * (1 - (self["decay"] if self.name == "rmsprop" else self["b2"]) ** steps)

    def corrected(self, square: Any, steps: int) -> Any:
        """The same, as the step divides by it: with Adam's bias correction."""
        return square if self.name in ("adam", "adamw") else self.state(square, steps)

    def first_step(self, squares: np.ndarray, weight: float) -> tuple[float, float]:
        """Root mean square of the first update of a leaf, whose entries have E[g²] = ``squares`` and E[w²] = ``weight``, and its error.

        The square of a step is concave in g², so that no law of the gradient gives more than a constant |g| does (Jensen). The
        distance of a normal gradient from there is the error: those of losses are mixtures over outputs, and bounded at the output.
        """
        lr = self["lr"]
        if self.name == "adafactor":
            return lr * max(weight**0.5, 1e-3) if np.any(squares) else 0.0, 0.0
        values, counts = np.unique(squares, return_counts=True)
        decay = (self.options.get("weight_decay", 0.0) ** 2) * weight
        normal, constant = (float(np.sum([f(v) for v in values] * counts) / squares.size) for f in (
            lambda v: _mean_square(self._step, v), lambda v: float(self._step(v**0.5) ** 2) if v > 0 else 0.0))
        found, most = (lr * (square + decay) ** 0.5 for square in (normal, constant))
        return found, most - found

    def _step(self, g: Any) -> Any:
        """Size of the first step for a gradient of size ``g``, over the learning rate."""
        if self.name == "rmsprop":
            return g / np.sqrt((1 - self["decay"]) * g**2 + self["eps"])
        return g / (g + self["eps"])


def _mean_square(step: Any, variance: float) -> float:
    """E[step(|g|)²] for normal ``g``, by the trapezoidal rule in log|g|."""
    if variance <= 0:
        return 0.0
    z = np.exp(np.linspace(-40.0, 2.5, 4001))
    weight = np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) * z * (42.5 / 4000)
    return float(np.sum(weight * step(z * variance**0.5) ** 2))


def optimizer(name: str, options: Mapping[str, Any]) -> Optimizer:
    """An optimizer by name.

    Raises:
        InvalidInput: for one that has no second moment, an unknown one, and for options that it lacks or that are out of range.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"optimizer: {getattr(name, '__name__', type(name).__name__)} is not a name; give one of "
                           f"{', '.join(map(repr, DEFAULTS))}, and its options by keyword")
    if name in _WITHOUT:
        raise InvalidInput(f"optimizer: {name!r} has no state to predict, since {_WITHOUT[name]}")
    if name not in DEFAULTS:
        raise InvalidInput(f"optimizer: {name!r} is none of {', '.join(map(repr, DEFAULTS))}; E[g²] itself does not depend on it")
    known = DEFAULTS[name]
    for option, value in options.items():
        if option not in known:
            raise InvalidInput(f"{option}: {name} has no such option; it has {', '.join(known)}")
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not number or not np.isfinite(value) or value < 0 or value >= _BELOW.get(option, np.inf):
            allowed = "in [0, 1)" if option in _BELOW else "finite and not negative"
            raise InvalidInput(f"{option}: {value!r} is not a number {allowed}")
    return Optimizer(name, {**known, **{k: float(v) for k, v in options.items()}})
