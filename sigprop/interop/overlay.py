"""Run a package written for an older library: its modules get an ``import`` of their own, under which what they miss is supplied.

The library itself is never changed, not even while the package is imported: a module's ``import`` statements call the ``__import__`` of
the ``__builtins__`` in its own namespace.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any


class _Overlay(ModuleType):
    """A module with supplied names before its own."""

    def __init__(self, name: str, supplied: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._supplied = supplied

    def __getattr__(self, key: str) -> Any:
        name = f"{self.__name__}.{key}"
        if name in self._supplied:
            return self._supplied[name]
        if _covers(self._supplied, name):
            return _Overlay(name, self._supplied)
        return getattr(sys.modules.get(self.__name__), key)


def _covers(supplied: Mapping[str, Any], name: str) -> bool:
    return any(full.startswith(name + ".") for full in supplied)


def _importing(supplied: Mapping[str, Any]) -> Callable[..., ModuleType]:
    roots = {name.partition(".")[0] for name in supplied}

    def __import__(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> ModuleType:
        root = name.partition(".")[0]
        if level or root not in roots:
            return builtins.__import__(name, globals, locals, fromlist, level)
        try:
            builtins.__import__(name, globals, locals, fromlist)
        except ModuleNotFoundError:
            if not _covers(supplied, name):
                raise
        return _Overlay(name if fromlist else root, supplied)

    return __import__


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, supplied: Mapping[str, Any]) -> None:
        super().__init__(name, path)
        self.supplied = supplied

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": _importing(self.supplied)}
        super().exec_module(module)


class _Finder:
    def __init__(self, package: str, supplied: Mapping[str, Any]) -> None:
        self.package, self.supplied = package, supplied

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name.partition(".")[0] == self.package else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path, self.supplied)
        return spec


def import_over(package: str, supplied: Mapping[str, Any], without: tuple[str, ...] = ()) -> ModuleType:
    """Import ``package`` afresh, whose modules see ``supplied`` wherever they import.

    Args:
        supplied: by full dotted name; modules that no longer exist may appear in it.
        without: submodules of the package to leave empty.

    Raises:
        ImportError: as the package does; nothing of it stays imported then.
    """
    finder = _Finder(package, supplied)
    _forget(package)
    sys.modules.update({name: ModuleType(name) for name in without})
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module(package)
    except BaseException:
        _forget(package)
        raise
    finally:
        sys.meta_path.remove(finder)


def _forget(package: str) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        del sys.modules[name]
