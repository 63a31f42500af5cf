"""Where the points of a study are computed: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar

from sigprop.errors import InvalidInput, MissingDependency

_CURRENT: ContextVar[Executor | None] = ContextVar("executor", default=None)
_PATIENCE = 5  # seconds for a scheduler to answer


def current() -> Executor | None:
    """That of the innermost :func:`scheduled`; ``None`` for this process."""
    return _CURRENT.get()


@contextmanager
def scheduled(address: str) -> Iterator[None]:
    """Within it the points of all studies are computed by a dask cluster, whose workers have sigprop installed.

    Args:
        address: ``dask://HOST:PORT``, of the scheduler.

    Raises:
        InvalidInput: for other addresses, and where no scheduler answers.
        MissingDependency: where dask is not installed.
    """
    kind, separator, host = address.partition("://")
    if kind != "dask" or not separator or not host.rpartition(":")[2].isdigit():
        raise InvalidInput(f"--executor: {address!r} is not of the form dask://HOST:PORT")
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingDependency("--executor: clusters need dask: pip install 'sigprop[studies]'") from error
    try:
        client = Client(f"tcp://{host}", timeout=_PATIENCE)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"--executor: no scheduler answers at {host} within {_PATIENCE} seconds ({type(error).__name__}); start one "
                           f"with dask scheduler, and workers with dask worker tcp://{host}") from error
    with client:
        token = _CURRENT.set(client.get_executor())
        try:
            yield
        finally:
            _CURRENT.reset(token)


__all__ = ["current", "scheduled"]
