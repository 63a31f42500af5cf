"""Physics-informed networks: the initialization sets the scale of derivatives along the inputs, and so of the residual at step 0.

For the wave equation ``r = u_tt - c² u_xx``, so that ``E[r²] = E[u_tt²] + c⁴ E[u_xx²] - 2 c² E[u_tt u_xx]``; with one hidden layer and
isotropic weights ``E[u_tt u_xx] = E[u_tt²] / 3`` at the origin, and 5/9 of it under the uniform first weights of a SIREN, which are
independent but not isotropic. A SIREN keeps first derivatives whatever the depth (Sitzmann et al. 2020). A ReLU network has no second
derivative: its residual would be zero whatever it is worth, and is refused.

For the wave equation, which is linear, gradient descent follows the tangent kernel of residuals and initial values together; Burgers'
equation is trained with Adam from a loss that is predicted too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from flax import nnx

from sigprop import dynamics, nn, pinn
from sigprop.empirical import empirical_kernel
from sigprop.errors import SigpropError
from sigprop.infinite import infinite_kernel
from sigprop.init.checks import check_number, check_whole
from sigprop.init.independent import Normal
from sigprop.network import Network, network
from sigprop.studies import drawing, frame
from sigprop.studies.frame import Claim, above, agrees, same
from sigprop.studies.training import descended, expected_errors, fitted

_ACTS: dict[str, Callable[..., Any]] = {"tanh": jnp.tanh, "sin": jnp.sin, "gelu": partial(nnx.gelu, approximate=False), "relu": nnx.relu}
_EQUATIONS = ("heat", "Burgers", "Helmholtz")
_PAIRS = {"u_x²": (0, 0), "u_tt²": (1, 1), "u_xx²": (2, 2), "u_tt u_xx": (1, 2), "u²": (3, 3)}  # of the outputs of ``_derivatives``
_AXES = {"moment": ("pair",), "residual": ("speed",), "other": ("equation",)}


@dataclass(frozen=True, kw_only=True)
class Config(frame.Config):
    """Networks ``u(t, x)`` whose first weights have variance ``gain²``, the others ``gain²`` over their inputs, and SIRENs.

    Attributes:
        activations: of ``"tanh"``, ``"sin"``, ``"gelu"``, and ``"siren"``, sines under the init of their own.
        frequency: w0 of SIRENs.
        depths: numbers of hidden layers.
        width: of these.
        gain: of the weights.
        gains: others, for the first activation and the deepest networks: He's, of variance 2/n, is the root of 2, Glorot's about 1.
        bias_variance: of all biases, above 0: without biases second derivatives of odd activations vanish at the origin.
        speeds: c of the wave equation.
        third: what E[u_tt u_xx] over E[u_tt²] is claimed to be for one hidden layer at the origin.
        viscosity, number: of Burgers' equation, and the wave number of Helmholtz'.
        units, draws: width of the networks with one hidden layer of sines that are trained, and their number, eight or more.
        steps: of gradient descent, at half the largest learning rate, and of Adam, at which losses are compared.
    """

    activations: tuple[str, ...] = ("tanh", "sin", "siren")
    frequency: float = 30.0
    depths: tuple[int, ...] = (1, 2)
    width: int = 128
    gain: float = 1.5
    gains: tuple[float, ...] = (1.0,)
    bias_variance: float = 0.25
    speeds: tuple[float, ...] = (0.5, 1.0, 2.0)
    third: float = 1 / 3
    viscosity: float = 0.1
    number: float = 2.0
    units: int = 256
    draws: int = 256
    steps: tuple[int, ...] = (0, 1, 4, 16, 64)
    seeds: int = 16384

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in {"width": 1, "units": 1, "draws": 8}.items():
            check_whole(name, getattr(self, name), least)
        check_number("gain", self.gain, above=0.0)
        check_number("frequency", self.frequency, above=0.0)
        check_number("bias_variance", self.bias_variance, above=0.0)


PRESETS = {"quick": Config(), "paper": Config(activations=("tanh", "sin", "gelu", "siren"), gains=(0.7, 1.0, 1.414),
                                               units=512, steps=(0, 1, 2, 4, 8, 16, 32, 64))}


def _points() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)


def _base(config: Config, activation: str, depth: int) -> Network:
    widths, first = [2, *[config.width] * depth, 1], Normal(config.gain**2)

    def build(rngs: nnx.Rngs) -> nnx.Module:
        def init(key: Any, shape: Any, dtype: Any = jnp.float32, *args: Any, **options: Any) -> Any:
            return first(key, shape, dtype) if shape[0] == 2 else Normal(config.gain**2 / shape[0])(key, shape, dtype)

        if activation == "siren":
            return nn.Siren(widths, w0=config.frequency, bias_init=Normal(config.bias_variance), rngs=rngs)
        return nn.PINN(widths, kernel_init=init, bias_init=Normal(config.bias_variance), act=_ACTS[activation], rngs=rngs)

    return network(build, _points())


def _along(u: Callable[..., Any], axis: int) -> Callable[..., Any]:
    return lambda p, x: jax.jvp(lambda y: u(p, y), (x,), (jnp.eye(2, dtype=x.dtype)[axis],))[1]


def _solution(base: Network) -> Callable[[Any, Any], Any]:
    return lambda p, x: base.apply(p, x[None])[0, 0]


def _second(u: Callable[..., Any], axis: int) -> Callable[..., Any]:
    return _along(_along(u, axis), axis)


def _at(function: Callable[..., Any]) -> Callable[..., Any]:
    """At many points, ``[n, ...]``, with an axis for its one feature."""
    return lambda p, xs: jax.vmap(lambda x: function(p, x))(xs)[..., None]


def _derivatives(base: Network) -> Callable[..., Any]:
    """``[u_x, u_tt, u_xx, u]`` at one point."""
    u = _solution(base)
    return lambda p, x: jnp.stack([_along(u, 1)(p, x), _second(u, 0)(p, x), _second(u, 1)(p, x), u(p, x)])


def _residual(base: Network, c: float) -> Callable[..., Any]:
    u = _solution(base)
    return lambda p, x: _second(u, 0)(p, x) - c**2 * _second(u, 1)(p, x)


def _equation(base: Network, name: str, config: Config) -> Callable[..., Any]:
    u = _solution(base)
    t, x = _along(u, 0), _along(u, 1)
    return {"wave": _residual(base, 1.0), "heat": lambda p, at: t(p, at) - _second(u, 1)(p, at),
            "Burgers": lambda p, at: t(p, at) + u(p, at) * x(p, at) - config.viscosity * _second(u, 1)(p, at),
            "Helmholtz": lambda p, at: _second(u, 0)(p, at) + _second(u, 1)(p, at) + config.number**2 * u(p, at)}[name]


def _predicted(base: Network, function: Callable[..., Any], points: np.ndarray) -> np.ndarray:
    """Second moments of the outputs of ``function`` at the same point, the mean over points."""
    return _with_error(base, function, points)[0]


def _with_error(base: Network, function: Callable[..., Any], points: np.ndarray) -> tuple[np.ndarray, float]:
    """The same, and the largest estimated error."""
    found = infinite_kernel(network(_at(function), points, init=base.init), ntk=False, diagonal="batch")(points)
    return np.asarray(found.nngp).mean(0), float(np.max(found.error))


def compute(config: Config, out: Path | None = None) -> xr.Dataset:
    """By ``activation`` and ``depth``: second moments of derivatives ``(pair)``, of wave residuals ``(speed)`` and of those of other
    equations ``(equation)``, predicted and measured; the share of the residual's loss at step 0 beside that of u² at the same points;
    E[u_tt u_xx] / E[u_tt²] at the origin, ``third``, on the mean of a circle, ``around``, and at a point of it, ``away``. By ``gain`` the
    wave residuals of the first activation, ``grown``. By ``step`` the loss of the wave equation under gradient descent, ``loss``,
    predicted and measured, and that of Burgers' under Adam, ``burgers``, predicted at step 0; by ``mode`` the eigenvalues of the tangent
    kernel of the wave equation's residual, ``eigenvalue``, and the means of finite kernels along their eigenvectors."""
    dims: dict[str, Any] = {f"{name}{suffix}": axis for name, axis in _AXES.items() for suffix in ("", "_measured", "_stderr")}
    dims["residual_error"] = ("speed",)
    found = frame.over({"activation": config.activations, "depth": config.depths}, partial(_point, config), out, "pinn_derivatives", dims)
    grown = frame.over({"gain": config.gains}, partial(_grown, config), out, "pinn_derivatives_gains",
                       {f"grown{suffix}": ("speed",) for suffix in ("", "_measured", "_stderr")})
    found = found.merge(grown)
    names = {"pair": list(_PAIRS), "speed": list(config.speeds), "equation": list(_EQUATIONS), "step": list(config.steps)}
    return found.assign(_training(config, out) | _spectrum(config, out)).assign_coords(names).assign_attrs(
        third=config.third, width=config.width, relu=_refusal(config))


def _point(config: Config, activation: str, depth: int) -> dict[str, Any]:
    """Of one network: what :func:`compute` has by activation and depth."""
    base, points, angles = _base(config, activation, depth), _points(), 2 * np.pi * np.arange(32) / 32
    moments = _predicted(base, _derivatives(base), points)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    at = {"third": np.zeros((1, 2), np.float32), "around": circle, "away": circle[:1]}
    ratios = {name: _predicted(base, _derivatives(base), where) for name, where in at.items()}
    terms = {"data": (_at(_solution(base)), points, None), "residual": (_at(_residual(base, 1.0)), points, None)}
    measured, residuals = _measured(config, base, points), [_with_error(base, _residual(base, c), points) for c in config.speeds]
    found = {"moment": np.array([moments[pair] for pair in _PAIRS.values()]),
             "residual": np.array([value for value, _ in residuals]), "residual_error": np.array([error for _, error in residuals]),
             "other": np.array([_predicted(base, _equation(base, name, config), points) for name in _EQUATIONS]),
             "share": float(pinn.loss_balance(base, terms)["share"].sel(term="residual"))}
    ends = np.cumsum([len(_PAIRS), len(config.speeds)])
    return found | {name: m[1, 2] / m[1, 1] for name, m in ratios.items()} | {
        f"{name}{suffix}": part for suffix, column in zip(("_measured", "_stderr"), measured, strict=True)
        for name, part in zip(_AXES, np.split(column, ends), strict=True)}


def _grown(config: Config, gain: float) -> dict[str, Any]:
    """Wave residuals of the first activation and the deepest networks under another gain."""
    one = _point(replace(config, gain=gain), config.activations[0], config.depths[-1])
    return {f"grown{suffix}": one[f"residual{suffix}"] for suffix in ("", "_measured", "_stderr")}


def _measured(config: Config, base: Network, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over points and draws of the parameters, and their standard errors."""
    derivatives, others = _derivatives(base), [_equation(base, name, config) for name in _EQUATIONS]

    def one(key: Any) -> Any:
        p = base.init(key)
        values = jax.vmap(lambda x: derivatives(p, x))(jnp.asarray(points))
        residuals = [values[:, 1] - c**2 * values[:, 2] for c in config.speeds]
        residuals += [jax.vmap(lambda x: other(p, x))(jnp.asarray(points)) for other in others]
        return jnp.stack([*((values[:, a] * values[:, b]).mean() for a, b in _PAIRS.values()), *((r**2).mean() for r in residuals)])

    groups = jax.random.split(config.key, (max(config.seeds // 64, 8), 64))
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(lambda some: jax.vmap(one)(some).mean(0), keys))(groups), np.float64)
    return found.mean(0), found.std(0, ddof=1) / len(found) ** 0.5


def _training(config: Config, out: Path | None) -> dict[str, Any]:
    """Losses at the config's steps, expected and over draws."""
    whole, points, targets, start = _problem(config, "wave")
    kernel = infinite_kernel(whole)(points)
    rate = 0.5 * float(dynamics.max_learning_rate(kernel.ntk))  # type: ignore[arg-type]
    path = dynamics.gradient_descent(kernel, jnp.asarray(targets), test=kernel, steps=np.array(config.steps), learning_rate=rate)
    found: dict[str, Any] = {"loss": ("step", expected_errors(path, targets)),
                             "burgers_start": _problem(config, "Burgers")[3], "wave_start": start}
    untrained = replace(config, steps=(0,))
    runs = {"loss": (_descended, config, {"rate": [rate]}, 1), "burgers": (_with_adam, config, {}, 1),
            "burgers_start": (_with_adam, untrained, {}, 32)}  # whose squares of products have long tails
    for name, (function, options, rates, more) in runs.items():
        grid = {**rates, "draw": range(config.seed, config.seed + more * config.draws)}
        run = frame.drawn(grid, partial(function, options), out, f"pinn_derivatives_{name}", {"value": ("step",)}).value.squeeze(drop=True)
        found |= {f"{name}_measured": run.mean("draw"), f"{name}_stderr": run.std("draw", ddof=1) / run.sizes["draw"] ** 0.5}
    return found


def _spectrum(config: Config, out: Path | None) -> dict[str, Any]:
    """Eigenvalues of the residual's tangent kernel, and the quadratic forms of finite kernels with its eigenvectors, over draws."""
    grid = {"draw": range(config.seed, config.seed + config.draws)}
    run = frame.drawn(grid, partial(_modes, config), out, "pinn_derivatives_modes", {"value": ("mode",)}).value
    base, terms = _terms(config)
    values = pinn.ntk_spectra(base, terms)["residual"].eigenvalues
    return {"eigenvalue": ("mode", values), "eigenvalue_measured": run.mean("draw"),
            "eigenvalue_stderr": run.std("draw", ddof=1) / config.draws**0.5}


def _terms(config: Config) -> tuple[Network, dict[str, Any]]:
    base, inner = _base(replace(config, width=config.units), "sin", 1), np.random.default_rng(1).uniform(-1, 1, (8, 2)).astype(np.float32)
    return base, {"residual": (_at(_residual(base, 1.0)), inner, None)}


def _modes(config: Config, draw: Any) -> Any:
    """Of one finite kernel."""
    base, terms = _terms(config)
    function, points, _ = terms["residual"]
    net = network(function, points, init=base.init)
    with jax.ensure_compile_time_eval():
        vectors = jnp.linalg.eigh(jnp.asarray(pinn.ntk_spectra(base, terms)["residual"].kernel))[1][:, ::-1]
    kernel = empirical_kernel(net)(net.init(frame.draw_key(draw)), points).ntk
    return jnp.einsum("ik,ij,jk->k", vectors, kernel, vectors)


def _problem(config: Config, equation: str) -> tuple[Network, np.ndarray, np.ndarray, float]:
    """The residual at eight points and u at eight of the start, ``u(0, x) = sin(pi x)``, as one function of ``[t, x, a, b]``, a times the
    former plus b times the latter, with an a for which both losses are equal at step 0; targets ``[16, 1]``; the expected loss."""
    base, rng = _base(replace(config, width=config.units), "sin", 1), np.random.default_rng(1)
    inner, start = rng.uniform(-1, 1, (8, 2)).astype(np.float32), np.stack([np.zeros(8), np.linspace(-1, 1, 8)], 1).astype(np.float32)
    values = np.sin(np.pi * start[:, 1:])
    u, residual = _solution(base), _equation(base, equation, config)
    terms = pinn.loss_balance(base, {"residual": (_at(residual), inner, None), "start": (_at(u), start, values)}).loss.values
    marks = np.repeat(np.array([[(terms[1] / terms[0]) ** 0.5, 0], [0, 1]], np.float32), 8, 0)
    points = np.concatenate([np.concatenate([inner, start]), marks], 1)
    whole = network(_at(lambda p, z: z[2] * residual(p, z[:2]) + z[3] * u(p, z[:2])), points, init=base.init)
    return whole, points, np.concatenate([np.zeros((8, 1)), values]), float(terms[1])


def _cost(config: Config, equation: str) -> tuple[Network, Callable[[Any], Any]]:
    with jax.ensure_compile_time_eval():
        whole, points, targets, _ = _problem(config, equation)
    return whole, lambda p: jnp.mean((whole.apply(p, jnp.asarray(points)) - targets) ** 2)


def _descended(config: Config, rate: Any, draw: Any) -> Any:
    """Losses of the wave equation under full-batch gradient descent, of one draw."""
    whole, cost = _cost(config, "wave")
    return descended(cost, whole.init(frame.draw_key(draw)), rate, config.steps)


def _with_adam(config: Config, draw: Any) -> Any:
    """Losses of Burgers' equation under Adam on all points, of one draw."""
    whole, cost = _cost(config, "Burgers")
    params, losses = whole.init(frame.draw_key(draw)), []
    for first, last in zip((0, *config.steps[:-1]), config.steps, strict=True):
        params = fitted(lambda p, _: cost(p), params, jax.random.key(0), first, last, count=1, batch_size=1)
        losses.append(cost(params))
    return jnp.stack(losses)


def _refusal(config: Config) -> str:
    """What is said of a network with ReLU; nothing where it gets a number."""
    base = _base(config, "relu", 2)
    try:
        _predicted(base, _residual(base, 1.0), _points())
    except SigpropError as error:
        return str(error)
    return ""


def claims(found: xr.Dataset) -> list[Claim]:
    """Derivatives and residuals are those measured, the wave residual is what its terms make it, ReLU is refused."""
    lines = [same("a ReLU network's residual is refused (1)", 1, float(bool(found.attrs["relu"])), 0)]
    for act in found.activation.values:
        for depth in found.depth.values:
            one, name = found.sel(activation=act, depth=depth), f"{act}, {depth} hidden layers"
            tt, xx, cross = (float(one.moment.sel(pair=p)) for p in ("u_tt²", "u_xx²", "u_tt u_xx"))
            whole = np.array([tt + c**4 * xx - 2 * c**2 * cross for c in found.speed.values])
            ratio = (one.residual / whole).values
            error = 1e-6 + 4 * float((one.residual_error / one.residual).max())  # 0 but for uniform first weights, which are drawn
            lines.append(same(f"{name}: E[residual²] over what its terms make", 1, ratio[np.argmax(np.abs(ratio - 1))], error))
            squares = [p for p in found.pair.values if p != "u_tt u_xx"]
            margin = 0.1 + 8.0 * (depth - 1) / found.attrs["width"]
            for title, column, where in (("E[derivative²]", "moment", {"pair": squares}), ("E[residual²]", "residual", {}),
                                         ("E[residual²] of other equations", "other", {})):
                theory, mean, error = (one[f"{column}{suffix}"].sel(where) for suffix in ("", "_measured", "_stderr"))
                lines.append(agrees(f"{name}: measured over predicted {title}", theory, mean, error, margin))
            if 1.0 in found.speed.values:
                lines.append(agrees(f"{name}: measured over predicted share of the residual, c = 1, in the loss at step 0", one.share,
                                    *_share(one), 0.05))
            if depth == 1:
                third = 5 / 9 if act == "siren" else found.attrs["third"]
                lines.append(same(f"{name}: E[u_tt u_xx] / E[u_tt²] at the origin", third, float(one.third), 1e-5))
                if act != "siren":  # whose first weights are not isotropic
                    lines += [same(f"{name}: the same on a circle around it, mean of all directions", third, float(one.around), 1e-4),
                              above(f"{name}: distance from that at one point of the circle", 0.02, abs(float(one.away - one.around)), 0)]
    deep, first = int(found.depth[-1]), str(found.activation.values[0])
    for gain in found.gain.values:
        one = found.sel(gain=gain)
        lines.append(agrees(f"{first}, {deep} hidden layers, gain {gain:g}: measured over predicted E[residual²]", one.grown,
                            one.grown_measured, one.grown_stderr, 0.1 + 8.0 * (deep - 1) / found.attrs["width"]))
    if "siren" in found.activation.values:
        first = found.moment.sel(activation="siren", pair="u_x²")
        lines.append(same("siren: E[u_x²] of the deepest network over that of the shallowest", 1, first[-1] / first[0], 1e-3))
    lines.append(agrees("NTK of the wave equation's residual: measured over predicted eigenvalues", found.eigenvalue,
                        found.eigenvalue_measured, found.eigenvalue_stderr, 0.25))
    return lines + _learned(found)


def _share(found: xr.Dataset) -> tuple[Any, Any]:
    """Of the residual of the wave equation with c = 1 beside u², measured, and its standard error."""
    one = found.sel(speed=1.0)
    residual, data = one.residual_measured, one.moment_measured.sel(pair="u²")
    share = residual / (residual + data)
    return share, share * (1 - share) * np.hypot(one.residual_stderr / residual, one.moment_stderr.sel(pair="u²") / data)


def _learned(found: xr.Dataset) -> list[Claim]:
    """Losses at step 0 are those predicted, the wave equation's stay so, and both are learned."""
    start = float(found.loss[0])
    curve, error = 1 + (found.loss_measured - found.loss) / start, found.loss_stderr / start
    lines = [same("wave: expected loss at step 0 over that of balanced terms", 1, start / found.wave_start, 1e-5),
             agrees("wave: 1 + (loss under gradient descent less that predicted) / loss at step 0", 1, curve, error, 0.2),
             agrees("Burgers: measured over predicted loss at step 0", found.burgers_start, found.burgers_start_measured,
                    found.burgers_start_stderr, 0.2)]
    for name, column in (("wave", "loss"), ("Burgers", "burgers")):
        one, error = found[f"{column}_measured"], found[f"{column}_stderr"]
        fall = one[0] / one[-1]
        lines.append(above(f"{name}: loss at step 0 over that at the last one", 10, fall, fall * error[-1] / one[-1]))
    return lines


def draw(found: xr.Dataset) -> Any:
    """Residuals against the wave speed, their share of the loss at step 0 for c = 1 against depth, and losses in training."""
    figure, (left, middle, right) = drawing.panels(3)
    for k, act in enumerate(found.activation.values):
        one = found.sel(activation=act).isel(depth=-1)
        drawing.curve(left, found.speed, one.residual, one.residual_measured, one.residual_stderr, str(act), k)
        whole = found.sel(activation=act)
        share, error = _share(whole) if 1.0 in found.speed.values else (None, 0)
        drawing.curve(middle, found.depth, whole.share, share, error, str(act), k)
    drawing.labelled(left, "wave speed $c$", "$E[r^2]$ of $r = u_{tt} - c^2 u_{xx}$", "xy")
    drawing.labelled(middle, "hidden layers", "share of the residual in the loss")
    drawing.curve(right, found.step + 1, found.loss, found.loss_measured, found.loss_stderr, "wave, gradient descent", 0)
    drawing.curve(right, found.step + 1, None, found.burgers_measured, found.burgers_stderr, "Burgers, Adam", 1)
    drawing.labelled(right, "step + 1", "loss", "xy")
    return figure


__all__ = ["Config", "PRESETS", "claims", "compute", "draw"]
