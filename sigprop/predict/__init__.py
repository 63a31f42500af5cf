"""Questions asked of the engine."""

from sigprop.predict.signal import propagate

__all__ = ["propagate"]
