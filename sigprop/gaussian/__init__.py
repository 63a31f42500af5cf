"""Expectations over Gaussian variables, each with its error and method."""

from sigprop.gaussian.expect import moment1, moment2, normal_points, rounding, square_root
from sigprop.gaussian.families import Family, homogeneous, recognize, rescale
from sigprop.gaussian.functions import IDENTITY, Function
from sigprop.gaussian.mixture import normal_mixture
from sigprop.gaussian.quadrature import triangular
from sigprop.gaussian.truncated import truncated_moments

__all__ = [
    "IDENTITY", "Family", "Function", "homogeneous", "moment1", "moment2", "normal_mixture", "normal_points", "recognize",
    "rescale", "rounding", "square_root", "triangular", "truncated_moments",
]
