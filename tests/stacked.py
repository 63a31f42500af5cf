"""A model whose parameters are stacked, by ``nn.scan`` and by ``nn.vmap``."""

import flax.linen as nn


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, carry):
                return nn.relu(nn.Dense(16)(carry)), None

        x, _ = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)(name="scan")(x)
        heads = nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=2)
        return heads(8, name="vmap")(x)
