"""Forty ReLU layers without normalization: dead under Glorot or N(0, 0.01²), alive under He.

Square layers under Glorot halve E[z²] each: 2^-40 = 9.1e-13 after forty. Under He it stays exactly, and the gradient is multiplied by
n_out / n_in in each layer, which is not 1 on the way to a bottleneck (He et al. 2015, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from sigprop import nn
from sigprop.errors import InvalidInput
from sigprop.init.checks import check_whole
from sigprop.init.independent import Normal
from sigprop.inputs import load
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, averaged, same
from sigprop.studies.study import Study as Base
from sigprop.studies.study import initializer, measure, predict
from sigprop.studies.training import trained


@dataclass(frozen=True, kw_only=True)
class Study(Base):
    """An autoencoder of scikit-learn's digits, 64 pixels, standardized.

    Attributes:
        depth: number of dense layers, even: half of them encode. ReLU follows all but the last.
        width: of the first hidden layer; the encoder's widths fall geometrically from it to the bottleneck.
        bottleneck: width of the code; fewer than 8 units are sampled, which takes minutes where several layers have so few.
    """

    depth: int = 40
    width: int = 64
    bottleneck: int = 64
    examples: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"depth": 4, "width": 1, "bottleneck": 1}.items():
            check_whole(name, getattr(self, name), least)
        if self.depth % 2:
            raise InvalidInput(f"depth: {self.depth} given; it must be even, since half of the layers encode and half decode")

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of the input and after each layer."""
        down = [int(round(w)) for w in np.geomspace(self.width, self.bottleneck, self.depth // 2)]
        return (64, *down, *down[-2::-1], 64)

    def images(self, count: int) -> np.ndarray:
        """The first digits, ``[count, 64]``."""
        return load("digits", count, None, 2)

    def network(self) -> Network:
        half = self.widths[1:self.depth // 2]
        init = initializer(self.init)
        return network(lambda rngs: nn.Autoencoder(64, half, self.bottleneck, kernel_init=init, rngs=rngs), self.images(self.examples))

    def nodes(self) -> list[str]:
        return [f"{part}/layers/{k}" for part in ("encoder", "decoder") for k in range(self.depth // 2)]


def train(study: Study, steps: int = 300, learning_rate: float = 1e-3, batch_size: int = 64, key: Any = None) -> xr.Dataset:
    """Reconstruct all digits with Adam, from a draw of the parameters; or from several, where ``key`` is ``[draws]``.

    Returns:
        ``loss`` ``(step)``, the mean squared error of minibatches, with ``draw`` first for several; ``chance``, that of the mean image.

    Raises:
        MissingDependency: where optax is not installed.
    """
    images = study.images(1797)
    found = trained(study.network(), (images,), images, lambda y, t: jnp.mean((y - t) ** 2), steps, learning_rate, batch_size, key)
    return found.assign(chance=float(np.mean((images - images.mean(0)) ** 2)))


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Second moments and gradients layer by layer, and training on digits.

    Attributes:
        init: of which it is claimed that it keeps the network alive.
        others: inits that do not; ``"small"`` is N(0, 0.01²).
        depth: number of layers, even, of 64 units each.
        narrow: code of a network whose widths fall to it, with the first ``width`` units wide, measured at depth 8.
        width: see ``narrow``.
        steps: of Adam, 64 images each.
        runs: of training, three or more.
    """

    init: str = "he"
    others: tuple[str, ...] = ("xavier", "small")
    depth: int = 42
    narrow: int = 32
    width: int = 128
    steps: int = 300
    runs: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("runs", self.runs, 3)


PRESETS = {"quick": Config(), "paper": Config(narrow=64, width=256, steps=1000, runs=16, seeds=512)}


_STEPS, _DEPTH = 300, 15
_LEAST = -30  # log10 of mean squares whose entries float32 holds as normal numbers


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """log10 E[z²] and log10 E[g²] ``(init, layer)``, predicted, and E[z²] ``measured``, NaN where float32 does not hold it; of the narrow
    network E[z²] and E[g²], measured too; ``loss`` ``(init, run, step)``."""
    def study(init: str, **sizes: int) -> Study:
        return Study(init=Normal(1e-4) if init == "small" else init, examples=2, **sizes)

    def point(init: str) -> dict[str, Any]:
        made = study(init, depth=config.depth)
        one, real = predict(made), measure(made, config.seeds, config.key, backward=False)
        held = one.log10_second_moment.values > _LEAST
        loss = train(study(init, depth=config.depth - 2), config.steps, key=jax.random.split(config.key, config.runs))
        return {"decades": one.log10_second_moment.values, "backward": one.log10_grad_variance.values, "loss": loss.loss.values,
                "chance": loss.chance.item(), "measured": np.where(held, real.second_moment, np.nan),
                "stderr": np.where(held, real.second_moment_stderr, np.nan)}

    small = study(config.init, depth=8, width=config.width, bottleneck=config.narrow)
    one, other = predict(small), measure(small, config.seeds, config.key)
    found = frame.over({"init": list(dict.fromkeys((config.init, *config.others)))}, point, out, "deep_autoencoder",
                       {**frame.layers("decades", "backward", "measured", "stderr"), "loss": ("run", "step")})
    columns: dict[str, Any] = {name: ("narrow", d[key].values) for key in ("second_moment", "grad_variance")
               for name, d, key in ((key, one, key), (f"{key}_measured", other, key), (f"{key}_stderr", other, f"{key}_stderr"))}
    return found.assign(columns).assign(widths=("narrow", np.array(small.widths[1:])))


def claims(found: xr.Dataset) -> list[Claim]:
    """Glorot halves E[z²] in each square layer, He keeps it and alone learns; He's gradients follow n_out / n_in at a bottleneck."""
    kept, first = found.isel(init=0), str(found.init.values[0])
    lines = [same(f"{first}: log10 of E[z²] of the last layer over that of the first", 0, kept.decades[-1] - kept.decades[0], 1e-4),
             same(f"{first}: log10 of E[g²] of the first layer over that of the last", 0, kept.backward[0] - kept.backward[-1], 1e-4)]
    for init, factor in (("xavier", 0.5), ("small", 0.0032)):
        if init in found.init.values[1:]:
            one = found.sel(init=init).decades.values
            lines.append(same(f"{init}: log10 of E[z²] after forty layers", 40 * np.log10(factor), one[40] - one[0], 1e-3))
            one = found.sel(init=init).backward.values
            lines.append(same(f"{init}: log10 of E[g²] after forty layers back", 40 * np.log10(factor), one[-41] - one[-1], 1e-3))
    for init in found.init.values:  # in more layers draws of this width differ so much that their mean is not known
        one = found.sel(init=init, layer=(found.decades.sel(init=init) > _LEAST).values).isel(layer=slice(_DEPTH))
        name = f"{init}: measured over predicted E[z²] of the first {one.sizes['layer']} layers"
        lines.append(agrees(name, 10.0**one.decades, one.measured, one.stderr, 0.5))
    lines.append(same(f"{first}, narrow: E[z²] of the code over that of the first layer", 1,
                      found.second_moment[len(found.narrow) // 2 - 1] / found.second_moment[0], 1e-5))
    growth = (found.grad_variance[:-1] / found.grad_variance[1:]).values * (found.widths[:-1] / found.widths[1:]).values
    lines.append(
        same(f"{first}, narrow: factor of E[g²] per layer, in units of n_out / n_in", 1, growth[np.argmax(np.abs(growth - 1))], 1e-5)
    )
    lines += [agrees(f"{first}, narrow: measured over predicted {name}", found[key], found[f"{key}_measured"], found[f"{key}_stderr"], 0.4)
              for key, name in (("second_moment", "E[z²]"), ("grad_variance", "E[g²]"))]
    end = min(found.sizes["step"], _STEPS)  # Adam's steps do not shrink with the gradient, so that others may wake up later
    left = (found.loss.isel(step=slice(end - max(end // 15, 1), end)).mean("step") / found.chance).transpose("init", "run")
    lines.append(above(f"{first}: share of the error of the mean image that {end} steps take away", 0.2, *averaged(1 - left[0])))
    return [*lines, *(above(f"{first}: that share less that under {init}", 0.15,
                            *averaged(left.sel(init=init) - left[0])) for init in found.init.values[1:])]


def draw(found: xr.Dataset) -> Any:
    """E[z²] by layer, E[z²] and E[g²] of the narrow network, and losses: means and standard deviations over runs."""
    figure, (left, middle, right) = drawing.panels(3)
    layer = np.arange(1, found.sizes["narrow"] + 1)
    for k, (name, label) in enumerate({"second_moment": "$E[z^2]$", "grad_variance": "$E[g^2]$"}.items()):
        drawing.curve(middle, layer, found[name], found[f"{name}_measured"], found[f"{name}_stderr"], label, k)
    drawing.labelled(middle, f"layer, widths down to {int(found.widths.min())}", "second moment")
    for k, init in enumerate(found.init.values):
        one = found.sel(init=init)
        layers, few = np.arange(1, one.sizes["layer"] + 1), slice(k, None, 3)
        drawing.curve(left, layers, 10.0**one.decades, None, None, str(init), k)
        drawing.curve(left, layers[few], None, one.measured[few], one.stderr[few], "", k)
        drawing.band(right, np.arange(one.sizes["step"]), one.loss.transpose("run", "step") / float(one.chance), str(init), k)
    drawing.labelled(left, "layer", "$E[z^2]$", "y")
    drawing.labelled(right, "step of Adam", "loss over that of the mean image", "y")
    return figure


__all__ = ["Config", "PRESETS", "Study", "claims", "compute", "draw", "measure", "predict", "train"]
