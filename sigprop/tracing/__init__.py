"""From a JAX function to a flat program of primitive operations."""

from sigprop.tracing.compat import counting
from sigprop.tracing.evaluate import apply_op, evaluate
from sigprop.tracing.flatten import trace
from sigprop.tracing.graph import Graph, Op, Row
from sigprop.tracing.host import SMOOTH, on_host
from sigprop.tracing.rolled import rolled
from sigprop.tracing.rows import rows
from sigprop.tracing.softmax import Softmax, softmaxes

__all__ = ["SMOOTH", "Graph", "Op", "Row", "Softmax", "apply_op", "counting", "evaluate", "on_host", "rolled", "rows", "softmaxes", "trace"]
