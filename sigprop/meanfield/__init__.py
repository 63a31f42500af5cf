"""Mean-field theory of a wide layer, alone or in a block: maps of variance and correlation, their fixed points and depth scales."""

from sigprop.meanfield.blocks import Attention, Convolution, Dropout, Residual
from sigprop.meanfield.diagram import phase_diagram
from sigprop.meanfield.fixed import FixedPoint, fixed_point
from sigprop.meanfield.jacobians import Jacobian
from sigprop.meanfield.maps import Maps
from sigprop.meanfield.norms import ActivationNorm, BatchNorm, PostNorm, PreNorm
from sigprop.meanfield.scales import DepthScales, chi1, critical_weight_variance, depth_scales, trainability_length
from sigprop.meanfield.streams import ResidualJacobian
from sigprop.meanfield.trajectory import trajectory
from sigprop.meanfield.width import finite_width

__all__ = [
    "ActivationNorm", "Attention", "BatchNorm", "Convolution", "DepthScales", "Dropout", "FixedPoint", "Jacobian", "Maps", "PostNorm",
    "PreNorm", "Residual", "ResidualJacobian", "chi1", "critical_weight_variance", "depth_scales", "finite_width", "fixed_point",
    "phase_diagram", "trainability_length", "trajectory",
]
