"""What sampled parameters do: measured signals, and kernels of finite width."""

from sigprop.empirical.expand import linearize, taylor
from sigprop.empirical.kernel import empirical_kernel, empirical_ntk
from sigprop.empirical.measure import measure, measure_arrays
from sigprop.empirical.operator import ntk_operator
from sigprop.empirical.seeds import monte_carlo_kernel

__all__ = [
    "empirical_kernel", "empirical_ntk", "linearize", "measure", "measure_arrays", "monte_carlo_kernel", "ntk_operator", "taylor",
]
