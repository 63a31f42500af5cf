"""What sampled parameters do: measured signals, and kernels of finite width."""

from sigprop.empirical.expand import linearize, taylor
from sigprop.empirical.gradients import loss_gradients, measure_gradients
from sigprop.empirical.kernel import empirical_kernel, empirical_ntk
from sigprop.empirical.lsuv import lsuv
from sigprop.empirical.measure import measure, measure_arrays
from sigprop.empirical.operator import ntk_operator
from sigprop.empirical.seeds import monte_carlo_kernel
from sigprop.empirical.sites import Site, sites
from sigprop.empirical.stream import grouped_keys, streamed
from sigprop.empirical.weights import parts, weights

__all__ = [
    "Site", "empirical_kernel", "empirical_ntk", "grouped_keys", "linearize", "loss_gradients", "lsuv", "measure", "measure_arrays",
    "measure_gradients", "monte_carlo_kernel", "ntk_operator", "parts", "sites", "streamed", "taylor", "weights",
]
