"""Bridges to other packages."""

from sigprop.interop import neural_tangents

__all__ = ["neural_tangents"]
