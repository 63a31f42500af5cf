"""The abstract interpreter: infinite-width statistics pushed through a flat program."""

from sigprop.engine.interpreter import Context, interpret
from sigprop.engine.labels import Label, Named
from sigprop.engine.method import demand_exact, method_of
from sigprop.engine.query import Query
from sigprop.engine.rules import RULES
from sigprop.engine.sampling import Sampler
from sigprop.engine.values import Field, Known, Unknown, Value, known

__all__ = ["RULES", "Context", "Field", "Known", "Label", "Named", "Query", "Sampler", "Unknown", "Value", "demand_exact", "interpret",
           "known", "method_of"]
