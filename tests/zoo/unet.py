"""U-Net: downsampling, upsampling by transposed convolutions, skip connections by concatenation, group normalization."""

import flax.linen as nn
import jax.numpy as jnp

from zoo.architecture import Architecture
from zoo.data import photo


class DoubleConv(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), padding="SAME", kernel_init=nn.initializers.he_normal())(x)
            x = nn.relu(nn.GroupNorm(num_groups=4)(x))
        return x


class UNet(nn.Module):
    """Three resolutions: the first downsampling by average pooling, the second by a strided convolution."""

    width: int
    channels: int = 3

    @nn.compact
    def __call__(self, x):
        high = DoubleConv(self.width // 2)(x)
        mid = DoubleConv(self.width)(nn.avg_pool(high, (2, 2), strides=(2, 2)))
        low = DoubleConv(self.width)(nn.Conv(self.width, (3, 3), strides=(2, 2))(mid))
        up = nn.ConvTranspose(self.width, (2, 2), strides=(2, 2))(low)
        x = DoubleConv(self.width)(jnp.concatenate([up, mid], axis=-1))
        up = nn.ConvTranspose(self.width // 2, (4, 4), strides=(2, 2), padding="SAME")(x)
        x = DoubleConv(self.width // 2)(jnp.concatenate([up, high], axis=-1))
        return nn.Conv(self.channels, (1, 1))(x)


ARCHITECTURES = {"U-Net": Architecture("linen", UNet, lambda: (photo(8),), averaged=1 / 8)}
