"""Number formats and networks: scales, what is clipped, rounded, subnormal or lost, from predicted laws, and measured with real dtypes."""

from sigprop.precision.analysis import analyze, quantizers
from sigprop.precision.channels import channel_quantizer
from sigprop.precision.formats import Format, number_format
from sigprop.precision.integers import integer
from sigprop.precision.measured import measure
from sigprop.precision.quantizer import Quantizer, quantizer
from sigprop.precision.simulate import executed, operands, quantized, values
from sigprop.precision.window import Window, gain_window
from sigprop.predict.distribution import Distribution, normal, of_samples, rectified
from sigprop.predict.entries import Entries, Entry, entries

__all__ = ["Distribution", "Entries", "Entry", "Format", "Quantizer", "Window", "analyze", "channel_quantizer", "entries", "executed",
           "gain_window", "integer", "measure", "normal", "number_format", "of_samples", "operands", "quantized", "quantizer", "quantizers",
           "rectified", "values"]
