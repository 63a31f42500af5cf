"""Networks for images whose layers mix sites: max-pooling, squeeze and excitation, scales that start at zero, standardized weights."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx
from jax import lax

from zoo.architecture import Architecture
from zoo.data import photo

he = nn.initializers.he_normal()


class MbConv(nn.Module):
    """Inverted bottleneck with squeeze and excitation (Tan and Le 2019), norms on running statistics."""

    features: int
    expand: int = 4

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=True)
        y = nn.silu(norm()(nn.Conv(self.expand * self.features, (1, 1), use_bias=False)(x)))
        y = nn.silu(norm()(nn.Conv(y.shape[-1], (3, 3), feature_group_count=y.shape[-1], use_bias=False)(y)))
        squeezed = nn.silu(nn.Dense(self.features // 4)(y.mean((1, 2), keepdims=True)))
        y = y * nn.sigmoid(nn.Dense(y.shape[-1])(squeezed))
        y = norm()(nn.Conv(self.features, (1, 1), use_bias=False)(y))
        return x + y if x.shape == y.shape else y


class EfficientNet(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.Conv(self.width, (3, 3), (2, 2), use_bias=False)(x))
        for _ in range(2):
            x = MbConv(self.width)(x)
        return nn.Dense(10)(x.mean((1, 2)))


class ZeroGammaResNet(nn.Module):
    """Pre-activation blocks whose last norm starts at ``gamma``: at zero each of them is the identity (Goyal et al. 2017)."""

    width: int
    gamma: float = 0.0

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, self.width, (3, 3), use_bias=False, kernel_init=he)
        norm = partial(nn.BatchNorm, use_running_average=not train)
        x = conv(name="stem")(x)
        for _ in range(3):
            y = nn.relu(norm()(conv()(nn.relu(x))))
            x = x + norm(scale_init=nn.initializers.constant(self.gamma))(conv()(y))
        return nn.Dense(10)(nn.relu(x).mean((1, 2)))


class StandardizedConv(nnx.Module):
    """Every filter has mean zero and variance one over its inputs, times a gain (Qiao et al. 2019, Brock et al. 2021)."""

    def __init__(self, features, out, rngs):
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), (3, 3, features, out)))
        self.gain = nnx.Param(jnp.ones(out))

    def __call__(self, x):
        kernel = self.kernel[...]
        kernel = (kernel - kernel.mean((0, 1, 2))) / jnp.sqrt(kernel.var((0, 1, 2)) * kernel[..., 0].size + 1e-6)
        return lax.conv_general_dilated(x, kernel * self.gain[...], (1, 1), "SAME",
                                        dimension_numbers=("NHWC", "HWIO", "NHWC"))


class StandardizedResNet(nnx.Module):
    """Residual blocks without norms: ReLU scaled to unit variance, branches at 0.2."""

    def __init__(self, width, rngs):
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.convs = nnx.List([StandardizedConv(width, width, rngs) for _ in range(4)])
        self.head = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        for one, two in (self.convs[:2], self.convs[2:]):
            x = x + 0.2 * two(1.7129 * nnx.relu(one(1.7129 * nnx.relu(x))))
        return self.head(nnx.relu(x).mean((1, 2)))


class PooledUNet(nn.Module):
    """One step down by max-pooling, one up by a transposed convolution; group norms of eight channels or more."""

    width: int

    @nn.compact
    def __call__(self, x):
        def double(x):
            for _ in range(2):
                x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(self.width, (3, 3), kernel_init=he)(x)))
            return x

        high = double(x)
        low = double(nn.max_pool(high, (2, 2), (2, 2)))
        up = nn.ConvTranspose(self.width, (2, 2), (2, 2))(low)
        return nn.Conv(3, (1, 1))(double(jnp.concatenate([up, high], -1)))


ARCHITECTURES = {
    "MBConv with squeeze-excite": Architecture("linen", EfficientNet, lambda: (photo(8),), averaged=1 / 4),
    "Zero-gamma ResNet": Architecture("linen", ZeroGammaResNet, lambda: (photo(4),)),
    "Weight-standardized ResNet": Architecture("nnx", lambda width: lambda rngs: StandardizedResNet(width, rngs), lambda: (photo(8),)),
    "U-Net with max-pooling": Architecture("linen", PooledUNet, lambda: (photo(4),), averaged=1 / 4),
}
