"""What all commands on a model take: the model, its inputs and the keywords of its call."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from sigprop.cli.target import find
from sigprop.errors import InvalidInput
from sigprop.inputs import load
from sigprop.network import Network, network

Target = Annotated[str, Parameter(help="PATH.py:factory or package.module:factory. The factory is a callable rngs -> nnx.Module, a Flax "
                                       "module (linen or nnx), a linen class that needs no arguments, or a function without arguments that "
                                       "returns one of these")]
Several = Annotated[list[str] | None, Parameter(negative=())]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Model:
    """How to make a model and what to feed it."""

    input: Annotated[Several, Parameter(help="digits, photo, tokens or FILE.npy; repeat for several inputs")] = None
    shape: Annotated[str, Parameter(help="shape of one example of digits, photo, tokens or a file, such as 8,8,1")] = ""
    examples: Annotated[int, Parameter(help="examples in the batch")] = 4
    vocabulary: Annotated[int, Parameter(help="number of different tokens")] = 64
    set: Annotated[Several, Parameter(help="keyword of the factory, such as width=512; may be repeated")] = None
    option: Annotated[Several, Parameter(help="keyword of the model's call, such as train=False; may be repeated")] = None
    method: Annotated[str, Parameter(help="method of the model to call")] = "__call__"

    @property
    def names(self) -> list[str]:
        return self.input or ["digits"]

    def arrays(self) -> list[Any]:
        """Inputs, batch on axis 0."""
        return [load(name, self.examples, _shape(self.shape), self.vocabulary) for name in self.names]

    def network(self, target: str, arrays: Sequence[Any]) -> Network:
        found = find(target, settings(self.set or [], "--set"))
        return found if isinstance(found, Network) else network(found, *arrays, method=self.method,
                                                                **settings(self.option or [], "--option"))


def _shape(text: str) -> tuple[int, ...] | None:
    try:
        return tuple(int(n) for n in text.split(",")) if text else None
    except ValueError as error:
        raise InvalidInput(f"--shape: '{text}' is not a list of integers such as 8,8,1") from error


def settings(given: Sequence[str], flag: str) -> dict[str, Any]:
    """``name=value`` texts as a mapping; values are Python literals where they can be read as such."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise InvalidInput(f"{flag}: '{text}' is not of the form name=value")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found
