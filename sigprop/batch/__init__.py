"""Functions over grids of parameters: compiled once per shape, mapped in chunks, on any executor, into a store that can be resumed."""

from sigprop.batch.run import run

__all__ = ["run"]
