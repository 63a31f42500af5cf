"""The reference architectures as ordinary linen models; widths do not matter in the limit, their ratios do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import normal, variance_scaling

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def scaled(w):
    return variance_scaling(w**2, "fan_in", "normal")


def dense(n, w=1.0, b=0.0):
    return nn.Dense(n, kernel_init=scaled(w), bias_init=normal(b), use_bias=b > 0, **F64)


def conv(n, k, w=1.0, b=0.0, **options):
    return nn.Conv(n, k, kernel_init=scaled(w), bias_init=normal(b), use_bias=b > 0, **{"padding": "VALID", **options, **F64})


def norm():
    return nn.LayerNorm(epsilon=1e-12, **F64)


def pooled(x):
    return x.mean(axis=tuple(range(1, x.ndim - 1)))


def flat(x):
    return x.reshape(x.shape[0], -1)


def fc(act, w=1.4, b=0.3):
    return lambda: nn.Sequential([dense(32, w, b), act, dense(32, w, b), act, dense(1, w, b)])


def erf(x):
    return jax.scipy.special.erf(x)


class Residual(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = dense(32, 1.4, 0.3)(x)
        x = x + dense(32, 1.2, 0.1)(nn.relu(x))
        return dense(1)(nn.relu(x))


class Concatenated(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = dense(32, 1.4, 0.3)(x)
        left, right = dense(32, 1.2, 0.1)(nn.relu(x)), dense(64, 0.9, 0.2)(erf(x))
        return dense(1)(jnp.concatenate([left, right], axis=-1))


class Product(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = dense(32, 1.4, 0.3)(x)
        return dense(1)(dense(32, 1.2, 0.1)(nn.relu(x)) * dense(32, 0.9, 0.2)(erf(x)))


class WideResNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        def same(n, s=(1, 1)):
            return conv(n, (3, 3), padding="SAME", strides=s)

        x = same(16)(x)
        x = x + same(16)(nn.relu(same(16)(nn.relu(x))))
        branch = same(16)(nn.relu(same(16, (2, 2))(nn.relu(x))))
        return dense(1)(pooled(nn.relu(branch + same(16, (2, 2))(x))))


def transposed(n, k, w=1.0, b=0.0, **options):
    return nn.ConvTranspose(n, k, kernel_init=scaled(w), bias_init=normal(b), use_bias=b > 0, **options, **F64)


MODELS = {
    "fc_relu": fc(nn.relu),
    "fc_erf_abc": fc(lambda x: 0.5 * erf(1.3 * x) + 0.2),
    "fc_gelu": fc(lambda x: nn.gelu(x, approximate=False)),
    "fc_sin": fc(lambda x: 1.2 * jnp.sin(0.7 * x + 0.4)),
    "fc_leakyrelu": fc(lambda x: nn.leaky_relu(x, 0.1)),
    "fc_abs": fc(jnp.abs),
    "fc_exp": fc(lambda x: 0.3 * jnp.exp(0.5 * x), 0.8, 0.1),
    "fc_polynomial": fc(lambda x: 0.2 + 0.5 * x + 0.3 * x**2 + 0.1 * x**3, 0.8, 0.2),
    "fc_standard_erf": lambda: nn.Sequential([dense(50, 1.3, 0.4), erf, dense(20, 1.1, 0.2), erf, dense(1, 1.3)]),
    "fc_layernorm_relu": lambda: nn.Sequential(
        [dense(32, 1.4, 0.3), norm(), nn.relu, dense(32, 1.4, 0.3), norm(), nn.relu, dense(1)]),
    "fc_residual_faninsum": Residual,
    "fc_faninconcat": Concatenated,
    "fc_faninprod": Product,
    "conv_valid_stride2_flatten": lambda: nn.Sequential(
        [conv(16, (3, 3), 1.4, 0.3, strides=(2, 2)), nn.relu, conv(16, (2, 2), 1.3, 0.2), erf, flat, dense(1, 1.2, 0.1)]),
    "conv_same_gap": lambda: nn.Sequential(
        [conv(16, (3, 3), 1.4, 0.3, padding="SAME"), nn.relu, conv(16, (3, 3), 1.3, 0.2, padding="SAME", strides=(2, 1)),
         nn.relu, pooled, dense(1, 1.2, 0.1)]),
    "conv_circular_avgpool_flatten": lambda: nn.Sequential(
        [conv(16, (3, 3), 1.4, 0.3, padding="CIRCULAR"), nn.relu, lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
         conv(16, (2, 2), 1.3, padding="SAME"), lambda x: nn.gelu(x, approximate=False), flat, dense(1)]),
    "convtranspose_same_gap": lambda: nn.Sequential(
        [transposed(16, (3, 3), 1.4, 0.3, strides=(2, 2), padding="SAME"), nn.relu, transposed(16, (2, 2), 1.1, padding="VALID"),
         nn.relu, pooled, dense(1)]),
    "conv_layernorm_channels": lambda: nn.Sequential(
        [conv(16, (3, 3), 1.4, 0.3, padding="SAME"), norm(), nn.relu, pooled, dense(1)]),
    "wideresnet_small_gap": WideResNet,
    "conv_1d_same_gap": lambda: nn.Sequential(
        [conv(16, (3,), 1.4, 0.3, padding="SAME"), nn.relu, conv(16, (3,), 1.4, 0.3, strides=(2,)), erf, pooled, dense(1)]),
    "imageresize_gap": lambda: nn.Sequential(
        [conv(16, (3, 3), 1.4, padding="SAME"), nn.relu, lambda x: jax.image.resize(x, (x.shape[0], 4, 4, x.shape[-1]), "linear"),
         conv(16, (2, 2), 1.2), nn.relu, pooled, dense(1)]),
}
