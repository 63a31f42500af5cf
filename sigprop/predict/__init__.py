"""Questions asked of the engine."""

from sigprop.predict.adam import LeafMoment, SecondMoments, adam_second_moment
from sigprop.predict.attention import attention_entropy
from sigprop.predict.findings import Finding, Findings
from sigprop.predict.lint import lint
from sigprop.predict.signal import Interpretation, interpretation, propagate

__all__ = [
    "Finding", "Findings", "Interpretation", "LeafMoment", "SecondMoments", "adam_second_moment", "attention_entropy", "interpretation",
    "lint", "propagate",
]
