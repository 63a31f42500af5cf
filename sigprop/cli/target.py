"""The model that a user names: ``PATH.py:factory`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
from flax import nnx

from sigprop.errors import InvalidInput, hint
from sigprop.network import Network


def find(target: str, settings: Mapping[str, Any] | None = None) -> Any:
    """The model that ``target`` names, ready for :func:`sigprop.network`.

    Args:
        settings: keyword arguments of the factory.

    Raises:
        InvalidInput: naming what is missing or what raised.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon or not place or not attribute:
        raise InvalidInput(f"TARGET: '{target}' is not of the form PATH.py:factory or package.module:factory")
    found: Any = _module(place)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise InvalidInput(f"TARGET: {place} has no '{attribute}'{hint(name, [n for n in vars(found) if not n.startswith('_')])}")
        found = getattr(found, name)
    return _model(_set(found, target, settings) if settings else found, target)


def _module(place: str) -> Any:
    try:
        if not place.endswith(".py"):
            sys.path.insert(0, "")
            return importlib.import_module(place)
        path = Path(place)
        if not path.is_file():
            raise InvalidInput(f"TARGET: no file {place}; give a path from {Path.cwd()}, or package.module:factory")
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(f"sigprop_target_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses, which linen modules are, look their module up
        spec.loader.exec_module(module)
        return module
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(f"TARGET: importing {place} raised {type(error).__name__}: {error}") from error


def _set(found: Any, target: str, settings: Mapping[str, Any]) -> Any:
    if isinstance(found, nn.Module | nnx.Module | Network) or not callable(found):
        raise InvalidInput(f"--set: {target} is {type(found).__name__}, made already; name a class or a function that makes it")
    takes = inspect.signature(found).parameters.values()
    known = [p.name for p in takes if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in settings:
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in takes):
            raise InvalidInput(f"--set: {target} takes no '{name}'; it takes {', '.join(known) or 'nothing'}{hint(name, known)}")
    return partial(found, **settings)


def _model(found: Any, target: str) -> Any:
    if isinstance(found, nn.Module | nnx.Module | Network):
        return found
    if not callable(found):
        raise InvalidInput(f"TARGET: {target} is {type(found).__name__}, neither a Flax module nor a function that makes one")
    needed = [p for p in inspect.signature(found).parameters.values()
              if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) == 1:
        return (lambda rngs: found(**{needed[0].name: rngs})) if needed[0].kind is needed[0].KEYWORD_ONLY else found
    if needed:
        names = ", ".join(p.name for p in needed)
        raise InvalidInput(f"TARGET: {target} needs the arguments {names}; give all but rngs by --set name=value")
    if isinstance(found, type) and issubclass(found, nnx.Module):
        return lambda rngs: found()
    try:
        made = found()
    except Exception as error:
        raise InvalidInput(f"TARGET: {target}() raised {type(error).__name__}: {error}") from error
    if inspect.isfunction(made) or isinstance(made, type):
        return _model(made, f"{target}()")
    if not isinstance(made, nn.Module | nnx.Module | Network):
        raise InvalidInput(f"TARGET: {target}() returned {type(made).__name__}, not a Flax module")
    return made
