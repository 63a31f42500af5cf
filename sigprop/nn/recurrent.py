"""Classifiers that read a sequence step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array, Float

from sigprop.init.checks import check_whole
from sigprop.init.orthogonal import Orthogonal
from sigprop.nn.checks import check_callable
from sigprop.nn.shared import LECUN, ZEROS, Activation, Init

ORTHOGONAL = Orthogonal()


class RecurrentClassifier(nnx.Module):
    """A recurrent cell over a sequence, and a dense layer on its last state.

    Args:
        in_features, hidden, out_features: widths of the input at each step, of the state and of the output.
        cell: ``nnx.LSTMCell`` (Hochreiter & Schmidhuber 1997), ``nnx.GRUCell`` (Cho et al. 2014), or another called like them.
        kernel_init, recurrent_init: weights from the input and the output layer, and from the state to the state.
        bias_init: of all biases.
        act: of the state; the gates are sigmoids.

    Raises:
        InvalidInput: for widths below 1, and what cannot be called.
    """

    def __init__(self, in_features: int, hidden: int, out_features: int, *, cell: Callable[..., Any] = nnx.LSTMCell,
                 kernel_init: Init = LECUN, recurrent_init: Init = ORTHOGONAL, bias_init: Init = ZEROS, act: Activation = nnx.tanh,
                 rngs: nnx.Rngs) -> None:
        for name, value in {"in_features": in_features, "hidden": hidden, "out_features": out_features}.items():
            check_whole(name, value)
        check_callable(cell=cell, kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init, act=act)
        self.rnn = nnx.RNN(cell(in_features, hidden, kernel_init=kernel_init, recurrent_kernel_init=recurrent_init, bias_init=bias_init,
                                activation_fn=act, rngs=rngs))
        self.head = nnx.Linear(hidden, out_features, kernel_init=kernel_init, bias_init=bias_init, rngs=rngs)

    def __call__(self, x: Float[Array, "*batch steps features"]) -> Float[Array, "*batch outputs"]:
        states: Any = self.rnn(x)
        return self.head(states[..., -1, :])
