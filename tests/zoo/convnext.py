"""ConvNeXt: large depthwise kernels, layer normalization, an inverted bottleneck with GELU, and a learned scale per channel."""

import jax
import jax.numpy as jnp
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import photo


class Block(nnx.Module):
    def __init__(self, dim, *, layer_scale=1e-6, rngs):
        self.dwconv = nnx.Conv(dim, dim, kernel_size=(7, 7), padding=3, feature_group_count=dim, rngs=rngs)
        self.norm = nnx.LayerNorm(dim, epsilon=1e-6, rngs=rngs)
        self.pwconv1 = nnx.Linear(dim, 4 * dim, rngs=rngs)
        self.pwconv2 = nnx.Linear(4 * dim, dim, rngs=rngs)
        self.gamma = nnx.Param(layer_scale * jnp.ones((dim,)))

    def __call__(self, x):
        branch = self.pwconv2(jax.nn.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + self.gamma[...] * branch


class ConvNeXt(nnx.Module):
    """A patch stem, two stages of two blocks, a downsampling layer in between, global average pooling."""

    def __init__(self, dims, *, layer_scale=1e-6, rngs):
        first, second = dims
        self.stem = nnx.Conv(3, first, (4, 4), strides=(4, 4), rngs=rngs)
        self.stem_norm = nnx.LayerNorm(first, epsilon=1e-6, rngs=rngs)
        self.stage1 = nnx.List([Block(first, layer_scale=layer_scale, rngs=rngs) for _ in range(2)])
        self.down_norm = nnx.LayerNorm(first, epsilon=1e-6, rngs=rngs)
        self.down = nnx.Conv(first, second, (2, 2), strides=(2, 2), rngs=rngs)
        self.stage2 = nnx.List([Block(second, layer_scale=layer_scale, rngs=rngs) for _ in range(2)])
        self.head_norm = nnx.LayerNorm(second, epsilon=1e-6, rngs=rngs)
        self.head = nnx.Linear(second, 10, rngs=rngs)

    def __call__(self, x):
        x = self.stem_norm(self.stem(x))
        for block in self.stage1:
            x = block(x)
        x = self.down(self.down_norm(x))
        for block in self.stage2:
            x = block(x)
        return self.head(self.head_norm(x.mean(axis=(1, 2))))


ARCHITECTURES = {
    "ConvNeXt": Architecture(
        "nnx", lambda n: lambda rngs: ConvNeXt((n // 2, n), layer_scale=0.1, rngs=rngs), lambda: (photo(16),), averaged=1 / 2),
}
