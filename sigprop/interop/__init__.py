"""Bridges to other packages."""

from sigprop.interop import neural_tangents
from sigprop.interop.kernels import kernel_fn_of, kernel_of

__all__ = ["kernel_fn_of", "kernel_of", "neural_tangents"]
