"""Questions asked of the engine."""

from sigprop.predict.adam import LeafMoment, SecondMoments, adam_second_moment
from sigprop.predict.advice import Advice, LeafAdvice, adam_advice
from sigprop.predict.attention import attention_entropy
from sigprop.predict.coordinates import coordinate_check
from sigprop.predict.findings import Finding, Findings
from sigprop.predict.lint import lint
from sigprop.predict.remedied import Layer, Remedy
from sigprop.predict.remedy import remedy
from sigprop.predict.signal import Interpretation, interpretation, propagate

__all__ = [
    "Advice", "Finding", "Findings", "Interpretation", "Layer", "LeafAdvice", "LeafMoment", "Remedy", "SecondMoments", "adam_advice",
    "adam_second_moment", "attention_entropy", "coordinate_check", "interpretation", "lint", "propagate", "remedy",
]
