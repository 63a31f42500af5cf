"""Every rule against Monte Carlo: second moments between all positions (so variances and correlations) and the mean.

Finite width has no bias in these cases: the moments of the output are linear in the last random weights given Gaussian
pre-activations of one layer on fixed inputs. Those of ``LIMITS`` (sums over channels) are extrapolated from two widths.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.nn import initializers

import sigprop as sp
from sigprop.engine import RULES
from sigprop.tracing import Graph

N = 16  # channels
RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4)).astype(np.float32)  # vectors
T = RNG.standard_normal((2, 3, 4)).astype(np.float32)  # sequences
I = RNG.standard_normal((2, 3, 4, 2)).astype(np.float32)  # images
V = RNG.standard_normal((1, 2, 3, 2, 2)).astype(np.float32)  # volumes
TOKENS = np.array([[0, 2, 2, 1], [3, 0, 1, 1]])
relu = jax.nn.relu
normal = {"kernel_init": initializers.variance_scaling(1.0, "fan_in", "normal")}  # exactly Gaussian pre-activations


class Case(NamedTuple):
    """``model`` is a function ``(weights, x)`` or a linen module; ``slow`` ones run in ``make test-all`` only."""

    model: Any
    x: Any
    slow: bool = False

    @property
    def inputs(self) -> tuple:
        return self.x if isinstance(self.x, tuple) else (self.x,)

    def net(self) -> sp.Network:
        return sp.network(self.model, *self.inputs) if isinstance(self.model, nn.Module) else harness.network(self.model, *self.inputs)


def z(w: harness.Weights, x: Any, n: int = N) -> Any:
    return w.dense(x, n)


def on(f: Callable[..., Any], x: Any = X, slow: bool = False) -> Case:
    """A function of one Gaussian layer."""
    return Case(lambda w, x: f(w.dense(x, N)), x, slow)


def pair(f: Callable[..., Any], x: Any = X, slow: bool = False) -> Case:
    """A function of two independent Gaussian layers."""
    return Case(lambda w, x: f(w.dense(x, N), w.dense(x, N)), x, slow)


def module(*layers: Any, x: Any = I, slow: bool = False) -> Case:
    return Case(nn.Sequential(list(layers)), x, slow)


def conv(*args: Any, **options: Any) -> nn.Conv:
    return nn.Conv(*args, use_bias=False, **{**normal, **options})


def transposed(*args: Any, **options: Any) -> nn.ConvTranspose:
    return nn.ConvTranspose(*args, use_bias=False, **{**normal, **options})


def dimension(*spec: str) -> Any:
    return {"dimension_numbers": spec}


CONTRACTIONS = {
    "dense": on(lambda z: z),
    "dense, kernel (out, in)": Case(lambda w, x: jnp.einsum("bi,oi->bo", x, w(N, 4, std=0.5)), X),
    "two layers": Case(lambda w, x: z(w, relu(z(w, x, 8)), 8), X),
    "DenseGeneral into heads": module(nn.DenseGeneral((4, 4), **normal), relu, nn.DenseGeneral(N, axis=(-2, -1), **normal), x=T),
    "DenseGeneral over site and channel": module(nn.DenseGeneral(N, axis=(1, 2), **normal), x=T),
    "DenseGeneral with batch dims": module(nn.DenseGeneral(N, batch_dims=(0,), **normal), x=T),
    "Einsum": module(nn.Einsum((4, N), "bti,io->bto", use_bias=False), x=T),
    "multi-head projection": Case(lambda w, x: jnp.einsum("btd,dhk->bhtk", x, w(4, 2, 8, std=0.5)), T),
    "head mixing": Case(lambda w, x: jnp.einsum("bthk,hko->bto", relu(jnp.einsum("btd,dhk->bthk", x, w(4, 2, 4, std=0.5))),
                                               w(2, 4, 8, std=0.35)), T),
    "token mixing": Case(lambda w, x: jnp.einsum("btd,ts->bsd", z(w, x), w(3, 2, std=0.6)), T, slow=True),
    "batched kernels": Case(lambda w, x: jnp.einsum("btd,tdo->bto", x, w(3, 4, N, std=0.5)), T),
    "flatten": Case(lambda w, x: z(w, relu(z(w, x, 8)).reshape(2, -1), 8), T),
    "bias": Case(lambda w, x: relu(z(w, x) + w(N, std=0.7)), X),
    "shared weights at two inputs": Case(lambda w, x: (lambda k: jnp.tanh(x @ k) + jnp.sin(x[:, ::-1] @ k))(w(4, N, std=0.5)), X),
    "one-hot times weights": Case(lambda w, x: relu(jax.nn.one_hot(x, 4) @ w(4, N, std=0.5)), TOKENS),
    "linear bottleneck of one": Case(lambda w, x: z(w, z(w, x, 1)), X, slow=True),
}
CONVOLUTIONS = {
    "1-D SAME": module(conv(N, (3,)), x=T),
    "1-D causal": module(conv(N, (2,), padding="CAUSAL"), x=T),
    "2-D VALID": module(conv(N, (2, 3), padding="VALID")),
    "2-D CIRCULAR": module(conv(N, (3, 3), padding="CIRCULAR")),
    "2-D REFLECT": module(conv(N, (3, 3), padding="REFLECT"), slow=True),
    "2-D explicit, stride": module(conv(N, (3, 2), strides=(2, 1), padding=((1, 2), (0, 1)))),
    "2-D kernel dilation": module(conv(N, (2, 2), kernel_dilation=(2, 3))),
    "2-D input dilation": module(conv(N, (2, 2), input_dilation=(2, 2), padding=((1, 0), (0, 1)))),
    "3-D": module(conv(N, (2, 2, 2)), x=V),
    "two layers": module(conv(8, (3, 3)), relu, conv(8, (3, 3), strides=2), x=I[:, :2, :3]),
    "groups": module(conv(8, (1, 1)), relu, conv(8, (3, 3), feature_group_count=2, strides=2), x=I[:, :2, :3]),
    "groups on the input": module(conv(N, (1, 3), feature_group_count=2)),
    "depthwise": module(conv(8, (1, 1)), relu, conv(8, (3, 3), feature_group_count=8, strides=2), x=I[:, :2, :3]),
    "depthwise, multiplier 2": module(conv(4, (1, 1)), relu, conv(8, (3, 3), feature_group_count=4, strides=2), slow=True),
    "depthwise on the input": module(conv(2, (3,), feature_group_count=2), x=T[..., :2], slow=True),
    "transposed SAME": module(transposed(N, (3, 3), strides=(2, 2)), x=I[:, :2, :2]),
    "transposed VALID": module(transposed(N, (3, 2), strides=(2, 3), padding="VALID"), x=I[:, :2, :2], slow=True),
    "transposed CIRCULAR": module(transposed(N, (3, 3), strides=(2, 2), padding="CIRCULAR"), x=I[:, :2, :2], slow=True),
    "transposed, transpose_kernel": module(conv(8, (1, 1)), relu, transposed(8, (3, 2), strides=(2, 1), transpose_kernel=True),
                                           x=I[:, :2, :1]),
    "channels first": Case(lambda w, x: jnp.moveaxis(lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 1), w(N, 2, 3, 3, std=0.3), (1, 1), "SAME"), 1, -1), I[:, :2, :2]),
    "patches": Case(lambda w, x: z(w, lax.conv_general_dilated_patches(relu(z(w, x, 8)), (2, 2), (1, 2), "VALID", **dimension(
        "NHWC", "HWIO", "NHWC")), 8), I[:, :2, :3]),
    "ViT patches": Case(lambda w, x: z(w, x[:, :2].reshape(2, 1, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(2, 2, 8)), I),
}
SHAPES = {
    "reshape merges sites": on(lambda z: relu(z).reshape(6, N), T),
    "reshape splits channels": on(lambda z: relu(z.reshape(2, 3, 2, 8))[:, :, 1], T),
    "reshape across sites and channels": Case(lambda w, x: z(w, relu(z(w, x, 16)).reshape(2, 6, 8), 8), T, slow=True),
    "pixel shuffle": on(lambda z: jnp.tanh(z).reshape(2, 2, 2, 2, 2, 4).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 4), I[:, :2, :2]),
    "transpose": on(lambda z: relu(z).transpose(1, 0, 2), T),
    "broadcast sites": on(lambda z: jnp.broadcast_to(z[:, None], (2, 3, N)) * jnp.arange(1.0, 4)[:, None]),
    "squeeze": on(lambda z: relu(z[:, :1]).squeeze(1), T),
    "concatenate channels": Case(lambda w, x: z(w, jnp.concatenate([relu(z(w, x, 8)), jnp.tanh(z(w, x, 4))], -1), 8), X),
    "concatenate functions of one field": Case(lambda w, x: (lambda h: z(w, jnp.concatenate([relu(h), h], -1), 8))(z(w, x, 8)), X),
    "concatenate sites": on(lambda z: jnp.concatenate([relu(z), z[:, :1]], 1), T),
    "concatenate with the input": Case(lambda w, x: relu(z(w, jnp.concatenate([2 * x, x**2], -1))), X),
    "concatenate the input and features": Case(lambda w, x: z(w, jnp.concatenate([x, relu(z(w, x, 8))], -1), 8), X),
    "split and multiply": on(lambda z: (lambda a, b: a * jnp.tanh(b))(*jnp.split(z, 2, -1))),
    "even and odd channels": on(lambda z: z[..., ::2] * z[..., 1::2] + z[..., ::2]),
    "stack sites": pair(lambda a, b: jnp.stack([relu(a), b, a], 1)),
    "stack and merge channels": pair(lambda a, b: jnp.stack([relu(a), b], -1).reshape(2, 2 * N)),
    "tile": on(lambda z: jnp.tile(relu(z), (1, 2, 1)), T),
    "tile channels": Case(lambda w, x: z(w, jnp.tile(relu(z(w, x, 8)), (1, 2)), 8), X),
    "repeat": on(lambda z: jnp.repeat(relu(z), 2, axis=1), T),
    "pad": on(lambda z: jnp.pad(z, ((0, 0), (1, 2), (0, 0)), constant_values=0.7), T),
    "pad channels": Case(lambda w, x: jnp.pad(z(w, x, 8), ((0, 0), (4, 4))) + z(w, x, 16), X),
    "pad edge": on(lambda z: jnp.pad(z, ((0, 0), (1, 2), (0, 0)), mode="edge"), T),
    "pad reflect": on(lambda z: jnp.pad(z, ((0, 0), (1, 2), (0, 0)), mode="reflect"), T, slow=True),
    "pad negative and interior": on(lambda z: lax.pad(z, jnp.float32(0), ((0, 0, 0), (-1, 2, 1), (0, 0, 0))), T),
    "slice with stride": on(lambda z: relu(z)[:, ::2], T),
    "reverse": on(lambda z: relu(z + z[:, ::-1]), T),
    "roll": on(lambda z: z * jnp.roll(z, 1, 1), T),
    "rotate half": on(lambda z: z * 0.6 + jnp.concatenate([-z[..., N // 2:], z[..., : N // 2]], -1) * 0.8, T),
    "take sites": on(lambda z: jnp.take(relu(z), jnp.array([0, 2, 2, 1]), axis=1), T),
    "take an identity": on(lambda z: z + jnp.take(z, jnp.arange(N), axis=-1)),
    "index": on(lambda z: z[:, 1] * z[:, -1], T),
    "embedding": Case(lambda w, x: jnp.take(w(4, N, std=1.0), x, axis=0), TOKENS),
    "Embed and positions": Case(lambda w, x: relu(w(4, N, std=1.0)[x] + w(4, N, std=0.5)), TOKENS),
    "sinusoidal positions": on(lambda z: jnp.tanh(z + jnp.sin(jnp.arange(3.0)[:, None] / 2.0)), T),
    "dynamic slice": on(lambda z: lax.dynamic_slice(relu(z), (0, 1, 0), (2, 2, N)), T),
    "dynamic index": on(lambda z: lax.dynamic_index_in_dim(z, 1, 1, keepdims=False), T),
    "resize bilinear": on(lambda z: jax.image.resize(relu(z), (2, 4, 5, N), "bilinear"), I[:, :2, :3]),
    "resize nearest": on(lambda z: jax.image.resize(relu(z), (2, 4, 5, N), "nearest"), I[:, :2, :3]),
    "resize bilinear down": on(lambda z: jax.image.resize(relu(z), (2, 2, 2, N), "bilinear"), I),
    "write a block": on(lambda z: z.at[:, 1].set(0.5), T),
    "add to a block": pair(lambda a, b: a.at[:, 1].add(b[:, 0]), T),
    "cumulative sum": on(lambda z: jnp.cumsum(relu(z), 1) + lax.cumsum(z, 1, reverse=True), T),
}
SUMS = {
    "mean over sites": on(lambda z: relu(z).mean(1), T),
    "sum over sites, one kept": on(lambda z: relu(z).sum((1, 2)) / 3, I),
    "average pooling VALID": module(conv(N, (3, 3)), relu, lambda x: nn.avg_pool(x, (2, 2), (1, 2))),
    "average pooling SAME": module(conv(N, (1, 1)), relu, lambda x: nn.avg_pool(x, (3, 3), (2, 1), "SAME")),
    "average pooling, padding not counted": module(
        conv(N, (1, 1)), relu, lambda x: nn.avg_pool(x, (3, 3), (2, 1), "SAME", count_include_pad=False), slow=True),
    "sum pooling": module(conv(N, (1, 1)), relu, lambda x: nn.pool(x, 0.0, lax.add, (2, 2), (1, 1), "VALID")),
    "largest of the sites": on(lambda z: z.max(1), T),
    "smallest of the sites": on(lambda z: jnp.tanh(z).min(1), T, slow=True),
    "max-pooling VALID": module(conv(N, (3, 3)), lambda x: nn.max_pool(x, (2, 2), (1, 2)), x=I[:, :2]),
    "max-pooling SAME": module(conv(N, (1, 1)), relu, lambda x: nn.max_pool(x, (1, 3), (1, 2), "SAME"), x=I[:, :1]),
    "min-pooling": module(conv(N, (1, 1)), lambda x: nn.pool(x, jnp.inf, lax.min, (1, 2), (1, 2), "VALID"), x=I[:, :1]),
    "softmax over sites": on(lambda z: jax.nn.softmax(z, axis=1), T),
    "softmax, masked": on(lambda z: jax.nn.softmax(z, axis=1, where=jnp.array([True, False, True])[:, None]), T, slow=True),
    "attention": Case(lambda w, x: nn.dot_product_attention(*(z(w, x, n).reshape(2, 3, 2, n // 2) for n in (8, 8, N))), T),
    "attention, causal": Case(lambda w, x: nn.dot_product_attention(*(z(w, x, n).reshape(2, 3, 2, n // 2) for n in (8, 8, N)),
                                                                    mask=nn.make_causal_mask(jnp.ones((2, 3)))), T, slow=True),
    "dot products": Case(lambda w, x: jnp.einsum("btd,bsd->bts", z(w, x, 4), z(w, x, 4)), T, slow=True),
    "centred over sites": on(lambda z: relu(z - z.mean(1, keepdims=True)), T),
    "centred over few channels": on(lambda z: relu((h := z.reshape(2, 3, -1, 4)) - h.mean(-1, keepdims=True)).reshape(z.shape), T),
}
JOINS = {
    "residual": Case(lambda w, x: (lambda h: h + z(w, relu(h), 8))(z(w, x, 8)), X),
    "subtract": on(lambda z: z - 2 * relu(z)),
    "product of branches": pair(lambda a, b: a * relu(b) + a),
    "product with itself": on(lambda z: z * jnp.tanh(z)),
    "gate": pair(lambda a, b: jax.nn.sigmoid(a) * b),
    "highway": pair(lambda a, b: (lambda t: t * jnp.tanh(b) + (1 - t) * a)(jax.nn.sigmoid(b))),
    "divide by a field": pair(lambda a, b: a / (1 + jnp.exp(b))),
    "divide by a constant": on(lambda z: z / jnp.arange(1.0, 4)[:, None], T),
    "channel scale": on(lambda z: relu(z * jnp.linspace(0.5, 1, N) - jnp.linspace(0, 0.5, N))),
    "function of a product": pair(lambda a, b: jnp.tanh(a * b)),
    "select by a constant": on(lambda z: relu(jnp.where(jnp.array([True, False, True])[:, None], z, 0.5)), T),
    "select by a field": pair(lambda a, b: jnp.where(a > 0, b, jnp.tanh(b))),
    "select a piece": on(lambda z: jnp.where(z > 0.5, 1.5 * z, -z)),
    "larger of two fields": pair(jnp.maximum),
    "smaller and a constant": on(lambda z: jnp.minimum(jnp.maximum(z, -0.3), 0.8)),
    "clip": on(lambda z: jnp.clip(z, -0.5, 1.0)),
}


@jax.custom_jvp
def scaled_tanh(x):
    return 1.7 * jnp.tanh(x)


@jax.custom_vjp
def straight_through(x):
    return jnp.sign(x)


scaled_tanh.defjvps(lambda t, y, x: t)
straight_through.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))
CALLS = {
    "custom_jvp": on(scaled_tanh), "custom_vjp": on(straight_through), "jit": on(jax.jit(lambda z: relu(z) ** 2)),
    "remat": Case(lambda w, x: jax.checkpoint(lambda h: relu(h) * 2)(z(w, x)), X),
    "scan": on(lambda z: lax.scan(lambda c, _: (c * 0.5 + relu(z), None), jnp.zeros_like(z), None, length=3)[0]),
    "cond with a known branch": on(lambda z: lax.cond(True, relu, jnp.tanh, z)),
    "closed call": on(lambda z: jax.closure_convert(relu, z)[0](z)),
    "float16 and back": on(lambda z: relu(z).astype(jnp.float16).astype(jnp.float32)),
    "boolean to float": on(lambda z: (z > 0.3).astype(jnp.float32)),
    "BatchNorm, running statistics": module(conv(N, (1, 1)), nn.BatchNorm(use_running_average=True, epsilon=0.5), relu),
    "Dropout, evaluation": module(conv(N, (1, 1)), nn.Dropout(0.3, deterministic=True), relu),
    "Dropout, training": module(conv(N, (1, 1)), nn.Dropout(0.3, deterministic=False), x=I[:, :2]),
    "Dropout on the input": module(nn.Dropout(0.3, deterministic=False), conv(N, (1, 1)), x=I[:, :1], slow=True),
}
UNARY = {
    "abs": jnp.abs, "acos": lambda z: jnp.arccos(jnp.tanh(z)), "acosh": lambda z: jnp.arccosh(1.5 + z * z), "asin": lambda z: jnp.arcsin(
        0.9 * jnp.tanh(z)), "asinh": jnp.arcsinh, "atan": jnp.arctan, "atanh": lambda z: jnp.arctanh(0.9 * jnp.tanh(z)),
    "bessel_i0e": lax.bessel_i0e, "bessel_i1e": lax.bessel_i1e, "cbrt": jnp.cbrt, "ceil": jnp.ceil, "cos": jnp.cos,
    "cosh": lambda z: jnp.cosh(z / 2), "digamma": lambda z: lax.digamma(1.5 + jnp.abs(z)), "erf": lax.erf, "erfc": lax.erfc,
    "erf_inv": lambda z: lax.erf_inv(0.9 * jnp.tanh(z)), "exp": lambda z: jnp.exp(z / 2), "exp2": lambda z: jnp.exp2(z / 2),
    "expm1": lambda z: jnp.expm1(z / 2), "floor": jnp.floor, "integer_pow": lambda z: z**3 / 4 + z,
    "integer_pow, negative": lambda z: (1 + z * z) ** -2, "is_finite": lambda z: jnp.where(jnp.isfinite(z), z, 0.0),
    "lgamma": lambda z: lax.lgamma(1.5 + jnp.abs(z)), "log": lambda z: jnp.log(0.5 + jnp.abs(z)), "log1p": lambda z: jnp.log1p(jnp.abs(z)),
    "logistic": jax.nn.sigmoid, "neg": lambda z: -relu(z), "round": lambda z: jnp.round(2 * z),
    "rsqrt": lambda z: lax.rsqrt(0.1 + z * z), "sign": jnp.sign, "sin": jnp.sin, "sinh": lambda z: jnp.sinh(z / 2),
    "sqrt": lambda z: jnp.sqrt(jnp.abs(z)), "square": lambda z: jnp.square(z) - 1, "tan": lambda z: jnp.tan(jnp.tanh(z)),
    "tanh": jnp.tanh, "pow": lambda z: jnp.power(1 + jnp.abs(z), 1.3), "rem": lambda z: lax.rem(z, jnp.float32(0.7)),
    "mod": lambda z: jnp.mod(z, 1.3), "clamp": lambda z: lax.clamp(jnp.float32(-1), z, jnp.float32(0.5)), "relu": relu,
    "comparisons": lambda z: ((z < 1.0) & ~(z <= -1.0) | (z >= 2.0) ^ (z != z)).astype(jnp.float32) + (z == 0.0),
    "stop_gradient": lambda z: z + lax.stop_gradient(relu(z)), "reduce_precision": lambda z: lax.reduce_precision(relu(z), 8, 20),
    "optimization_barrier": lambda z: lax.optimization_barrier(relu(z)), "nextafter": lambda z: lax.nextafter(relu(z), jnp.float32(9)),
    "name": lambda z: checkpoint_name(relu(z), "here"), "copy": lambda z: jnp.copy(relu(z)),
    "gelu": lambda z: jax.nn.gelu(z, approximate=False), "gelu, tanh": jax.nn.gelu, "silu": jax.nn.silu, "elu": jax.nn.elu,
    "selu": jax.nn.selu, "softplus": jax.nn.softplus, "mish": jax.nn.mish, "leaky relu": jax.nn.leaky_relu, "relu6": jax.nn.relu6,
    "hard tanh": jax.nn.hard_tanh, "hard swish": jax.nn.hard_swish, "celu": jax.nn.celu, "soft sign": jax.nn.soft_sign,
    "squareplus": jax.nn.squareplus, "log sigmoid": jax.nn.log_sigmoid, "snake": lambda z: z + jnp.sin(3 * z) ** 2,
    "sparse plus": jax.nn.sparse_plus,
}
RARE = {"acos", "acosh", "asinh", "bessel_i0e", "bessel_i1e", "cbrt", "ceil", "celu", "cosh", "digamma", "elu", "erf_inv", "exp2", "expm1",
        "hard swish", "lgamma", "log sigmoid", "mish", "nextafter", "relu6", "rem", "selu", "sinh", "snake", "sparse plus", "squareplus",
        "tan"}
ELEMENTWISE = {name: on(f, slow=name in RARE) for name, f in UNARY.items()} | {
    "atan2": pair(lambda a, b: jnp.arctan2(a, 1 + jnp.abs(b)), slow=True)}
FAMILIES = {"contraction": CONTRACTIONS, "convolution": CONVOLUTIONS, "shape": SHAPES, "sum": SUMS, "join": JOINS, "call": CALLS,
            "elementwise": ELEMENTWISE}
CASES = {f"{family}: {name}": case for family, cases in FAMILIES.items() for name, case in cases.items()}


def norm(layer: Any, *after: Any) -> Callable[[int], nn.Module]:
    return lambda n: nn.Sequential([conv(n, (1, 1)), layer(), *after])


LIMITS: dict[str, Callable[[int], nn.Module]] = {
    "LayerNorm": norm(lambda: nn.LayerNorm(epsilon=0.2), relu), "RMSNorm": norm(lambda: nn.RMSNorm(epsilon=0.2), relu),
    "GroupNorm": norm(lambda: nn.GroupNorm(2, epsilon=0.2), relu), "InstanceNorm": norm(lambda: nn.InstanceNorm(epsilon=0.2)),
    "LayerNorm after relu": lambda n: nn.Sequential([conv(n, (1, 1)), relu, nn.LayerNorm(), jnp.tanh]),
    "LayerNorm over all axes": norm(lambda: nn.LayerNorm(epsilon=0.2, reduction_axes=(1, 2, 3), feature_axes=(3,)), relu),
    "mean over channels": lambda n: nn.Sequential([conv(n, (1, 1)), lambda x: x * jnp.abs(x).mean(-1, keepdims=True)]),
    "softmax over channels": lambda n: nn.Sequential([conv(n, (1, 1)), lambda x: jnp.exp(x / 4) / jnp.exp(x / 4).mean(-1, keepdims=True)]),
}
WIDER = ("GroupNorm", "mean over channels")  # corrections are larger: of half the channels, of a product


def parameters(cases: dict[str, Case]) -> list[Any]:
    return [pytest.param(case, id=name, marks=[pytest.mark.slow] if case.slow else []) for name, case in cases.items()]


@pytest.mark.parametrize("case", parameters(CASES))
def test_moments_agree_with_monte_carlo(case):
    harness.check(case.net(), *case.inputs)


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.slow
def test_limits_agree_with_monte_carlo(name):
    x = I[:, :2, :2]
    harness.check_limit(lambda n: sp.network(LIMITS[name](n), x), 128 if name in WIDER else 64, x)


SEEN_ELSEWHERE = {  # rules that these models cannot reach, and where they are tested
    "add_any": "emitted by transposition only", "select_and_scatter_add": "of gradients, tests/test_pooling.py",
    "copy_p": "an older name of copy", "expand_dims": "an older spelling of broadcast_in_dim",
    **{f"random:{k}": "laws of parameters, tests/test_laws.py" for k in
       ("categorical", "gamma", "laplace", "orthogonal", "permutation", "randint", "truncated_normal", "uniform")},
}


def test_every_rule_has_a_case():
    reached: set[str] = set()
    for case in CASES.values():
        net = case.net()
        graphs: list[Graph] = [net.graph(*case.inputs), net.init_graph]
        reached |= {op.name for graph in graphs for op in graph.ops}
    assert set(RULES) - reached - set(SEEN_ELSEWHERE) == set()
