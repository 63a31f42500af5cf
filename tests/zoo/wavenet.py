"""A WaveNet-like stack of dilated causal 1-D convolutions with residual and skip connections, without gates."""

import flax.linen as nn

from zoo.architecture import Architecture
from zoo.data import scanlines


class WaveNet(nn.Module):
    width: int
    dilations: tuple[int, ...] = (1, 2, 4, 8)

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (2,), padding="CAUSAL")(x)
        skips = 0.0
        for dilation in self.dilations:
            y = nn.tanh(nn.Conv(self.width, (2,), kernel_dilation=(dilation,), padding="CAUSAL")(x))
            skips = skips + nn.Conv(self.width, (1,))(y)
            x = x + nn.Conv(self.width, (1,))(y)
        x = nn.relu(skips)
        x = nn.relu(nn.Conv(self.width, (1,))(x))
        return nn.Conv(16, (1,))(x)


ARCHITECTURES = {"WaveNet-like causal stack": Architecture("linen", WaveNet, lambda: (scanlines(24),))}
