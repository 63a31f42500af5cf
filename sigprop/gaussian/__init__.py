"""Expectations over Gaussian variables, each with its error and method."""

from sigprop.gaussian.expect import moment1, moment2, moment_many, quantiles
from sigprop.gaussian.families import Family, recognize

__all__ = ["Family", "moment1", "moment2", "moment_many", "quantiles", "recognize"]
