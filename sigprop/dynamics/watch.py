"""Training watched: what gradients and updates are in the first steps, beside what was predicted at initialization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop.errors import InvalidInput, MissingDependency
from sigprop.init.checks import check_whole
from sigprop.network import parameter_paths
from sigprop.predict.adam import SecondMoments

_COLUMNS = ("rms_gradient", "rms_update", "rms_weight")


class Watched(NamedTuple):
    """State of a watched optimizer: that of its own, the steps taken, and root mean squares ``[steps, parameters, 3]``."""

    inner: Any
    count: Any
    rows: Any


@dataclass(frozen=True, eq=False)
class Watch:
    """Wraps an optax optimizer so that its state keeps the root mean squares of gradients, updates and weights of the first steps.

    ``watch(optax.adam(1e-3))`` is a ``GradientTransformation`` again: for ``nnx.Optimizer``, for linen's ``params``, under ``jax.jit`` and
    ``jax.lax.scan``; its updates are those of the optimizer, and no number leaves the device. ``watch.log(state)`` reads the state.

    Args:
        moments: from :func:`sigprop.adam_second_moment`, for the loss and the ``batch_size`` of training.
        steps: that are kept, the first ones.

    Raises:
        InvalidInput: for moments that are none, and numbers out of range.
    """

    moments: SecondMoments
    steps: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.moments, SecondMoments):
            raise InvalidInput(f"moments: {type(self.moments).__name__} given; it is what sp.adam_second_moment(net, loss, batch) returns")
        check_whole("steps", self.steps)

    def __call__(self, optimizer: Any) -> Any:
        """The optimizer, watched.

        Raises:
            InvalidInput: for what is no optimizer; when it starts, for parameters that are not those of the prediction.
            MissingDependency: where optax is not installed.
        """
        try:
            import optax
        except ImportError as error:
            raise MissingDependency("optimizers are those of optax: pip install 'sigprop[studies]'") from error
        if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
            raise InvalidInput(f"optimizer: {type(optimizer).__name__} given; it is an optax.GradientTransformation such as "
                               "optax.adam(1e-3)")
        wrapped = optax.with_extra_args_support(optimizer)

        def init(params: Any) -> Watched:
            self._columns(params)
            rows = jnp.full((self.steps, len(self.moments), len(_COLUMNS)), jnp.nan)
            return Watched(wrapped.init(params), jnp.zeros((), jnp.int32), rows)

        def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
            steps, inner = wrapped.update(updates, state.inner, params, **extra)
            missing = jnp.full(len(self.moments), jnp.nan)
            row = jnp.stack([missing if tree is None else self._columns(tree) for tree in (updates, steps, params)], -1)
            rows = jnp.where(jnp.arange(self.steps)[:, None, None] == state.count, row, state.rows)
            return steps, Watched(inner, state.count + 1, rows)

        return optax.GradientTransformationExtraArgs(init, update)

    def _columns(self, tree: Any) -> Any:
        """Root mean squares by parameter, in the order of the prediction."""
        paths = [path.removeprefix("params/") for path in parameter_paths(tree)]
        found = dict(zip(paths, jax.tree.leaves(tree), strict=True))
        if found.keys() != set(self.moments):
            odd = sorted(found.keys() ^ set(self.moments))
            raise InvalidInput(f"params: {odd[0]!r} is a parameter of {'training' if odd[0] in found else 'the prediction'} alone; the "
                               f"prediction is of {', '.join(self.moments)}: predict for the model that is trained")
        return jnp.stack([jnp.sqrt(jnp.mean(jnp.square(found[path].astype(jnp.float32)))) for path in self.moments])

    def log(self, state: Any) -> xr.Dataset:
        """What was kept.

        Args:
            state: of the optimizer, or the ``nnx.Optimizer``, after some steps.

        Returns:
            Over ``step`` (those taken, from 0) and ``parameter``: ``rms_gradient``, ``rms_update``, ``rms_weight`` before the step (NaN
            where the optimizer was not given parameters), and ``ratio`` of ``rms_gradient`` to the predicted one. Over ``parameter``:
            ``predicted_gradient`` and ``predicted_update``, of the first step, in root mean squares over draws of the parameters.

        Raises:
            InvalidInput: for the state of an optimizer that is not watched.
        """
        state = getattr(state, "opt_state", state)
        states = [s for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, Watched)) if isinstance(s, Watched)]
        if not states:
            raise InvalidInput("state: that of an optimizer which is not watched; train with watch(optax.adam(...))")
        count, rows = (np.asarray(jax.tree.leaves(part)[0]) for part in states[0][1:])
        rows = np.asarray(rows[: int(count)], np.float64)
        predicted = np.array([leaf.second_moment**0.5 for leaf in self.moments.values()])
        data: dict[str, Any] = {name: (("step", "parameter"), rows[..., k]) for k, name in enumerate(_COLUMNS)}
        with np.errstate(divide="ignore", invalid="ignore"):
            data["ratio"] = (("step", "parameter"), rows[..., 0] / predicted)
        data["predicted_gradient"] = ("parameter", predicted)
        data["predicted_update"] = ("parameter", np.array([leaf.update for leaf in self.moments.values()]))
        return xr.Dataset(data, {"step": np.arange(len(rows)), "parameter": list(self.moments)})
