"""Questions asked of the engine."""

from sigprop.predict.adam import LeafMoment, SecondMoments, adam_second_moment
from sigprop.predict.attention import attention_entropy
from sigprop.predict.signal import Interpretation, interpretation, propagate

__all__ = ["Interpretation", "LeafMoment", "SecondMoments", "adam_second_moment", "attention_entropy", "interpretation", "propagate"]
