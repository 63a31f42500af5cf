"""Questions asked of the engine."""

from sigprop.predict.signal import Interpretation, interpretation, propagate

__all__ = ["Interpretation", "interpretation", "propagate"]
