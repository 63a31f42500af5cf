"""Mean-field theory of one layer of a wide fully connected network: maps of variance and correlation, their fixed points and scales."""

from sigprop.meanfield.diagram import phase_diagram
from sigprop.meanfield.fixed import FixedPoint, fixed_point
from sigprop.meanfield.maps import Maps
from sigprop.meanfield.scales import DepthScales, chi1, critical_weight_variance, depth_scales

__all__ = ["DepthScales", "FixedPoint", "Maps", "chi1", "critical_weight_variance", "depth_scales", "fixed_point", "phase_diagram"]
