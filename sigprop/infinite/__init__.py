"""Infinite-width kernels."""

from sigprop.infinite.kernel import infinite_kernel, output_moment

__all__ = ["infinite_kernel", "output_moment"]
