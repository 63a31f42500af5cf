"""The ``sigprop`` command."""

from sigprop.cli import analyses, environment, kernels, reports, work  # noqa: F401  # each adds its commands
from sigprop.cli.app import main
from sigprop.cli.target import find

__all__ = ["find", "main"]
