"""Signal propagation and infinite-width kernels of unmodified Flax models."""

from sigprop.empirical import measure
from sigprop.errors import InvalidInput, MissingRule, SigpropError, Unsound
from sigprop.infinite import infinite_kernel
from sigprop.network import Law, Network, network
from sigprop.predict import propagate
from sigprop.report import Report, report
from sigprop.types import Kernel

__all__ = [
    "InvalidInput", "Kernel", "Law", "MissingRule", "Network", "Report", "SigpropError", "Unsound", "infinite_kernel", "measure", "network",
    "propagate", "report",
]
