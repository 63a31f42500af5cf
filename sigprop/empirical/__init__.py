"""What sampled parameters do."""

from sigprop.empirical.measure import measure, measure_arrays

__all__ = ["measure", "measure_arrays"]
