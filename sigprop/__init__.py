"""Signal propagation and infinite-width kernels of unmodified Flax models."""

from sigprop import interop
from sigprop.empirical import measure
from sigprop.errors import InvalidInput, MissingDependency, MissingRule, SigpropError, Unsound
from sigprop.infinite import infinite_kernel
from sigprop.network import Law, Network, network
from sigprop.predict import propagate
from sigprop.report import Report, report
from sigprop.types import Kernel

__all__ = [
    "InvalidInput", "Kernel", "Law", "MissingDependency", "MissingRule", "Network", "Report", "SigpropError", "Unsound",
    "infinite_kernel", "interop", "measure", "network", "propagate", "report",
]
