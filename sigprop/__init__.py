"""Signal propagation and infinite-width kernels of unmodified Flax models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sigprop import init, interop, meanfield, spectra
from sigprop.empirical import empirical_kernel, empirical_ntk, linearize, lsuv, measure, monte_carlo_kernel, ntk_operator, taylor
from sigprop.errors import InvalidInput, MissingDependency, MissingRule, OutOfMemory, SigpropError, StorageFailed, Unsound
from sigprop.gram import Gram, gram, open_gram
from sigprop.infinite import infinite_kernel
from sigprop.network import Law, Network, fans, network
from sigprop.predict import adam_advice, adam_second_moment, attention_entropy, coordinate_check, lint, propagate, remedy
from sigprop.report import Report, report
from sigprop.types import Kernel, KernelSample

if TYPE_CHECKING:
    from sigprop import dynamics, nn, pinn, precision, sparse, studies

__all__ = [
    "Gram", "InvalidInput", "Kernel", "KernelSample", "Law", "MissingDependency", "MissingRule", "Network", "OutOfMemory", "Report",
    "SigpropError", "StorageFailed", "Unsound", "adam_advice", "adam_second_moment", "attention_entropy", "coordinate_check", "dynamics",
    "empirical_kernel", "empirical_ntk", "fans", "gram", "infinite_kernel", "init", "interop", "linearize", "lint", "lsuv", "meanfield",
    "measure", "monte_carlo_kernel", "network", "nn", "ntk_operator", "open_gram", "pinn", "precision", "propagate", "remedy", "report",
    "sparse", "spectra", "studies", "taylor",
]


def __getattr__(name: str) -> Any:
    """Imported when first used: ``sp.nn`` and ``sp.studies`` need ``flax.nnx``, the others SciPy's optimizers, or few need them."""
    if name in ("dynamics", "nn", "pinn", "precision", "sparse", "studies"):
        return import_module(f"sigprop.{name}")
    raise AttributeError(f"module 'sigprop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
