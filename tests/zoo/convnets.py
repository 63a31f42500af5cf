"""Image classifiers: the convolutional network of the Flax documentation (nnx and linen), residual, dense and separable networks."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx

from zoo.architecture import Architecture
from zoo.data import digits, photo


class CNN(nnx.Module):
    """Two convolutions with batch normalization, dropout and average pooling, then two dense layers, as in the nnx tutorial."""

    def __init__(self, width, *, rngs):
        self.conv1 = nnx.Conv(1, width // 2, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm1 = nnx.BatchNorm(width // 2, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.conv2 = nnx.Conv(width // 2, width, kernel_size=(3, 3), rngs=rngs)
        self.batch_norm2 = nnx.BatchNorm(width, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(4 * width, 4 * width, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025, rngs=rngs)
        self.linear2 = nnx.Linear(4 * width, 10, rngs=rngs)

    def __call__(self, x):
        x = self.avg_pool(nnx.relu(self.batch_norm1(self.dropout1(self.conv1(x)))))
        x = self.avg_pool(nnx.relu(self.batch_norm2(self.conv2(x))))
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(self.dropout2(self.linear1(x)))
        return self.linear2(x)


class LinenCNN(nn.Module):
    """The linen version of the documentation's network."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(features=self.width // 2, kernel_size=(3, 3))(x))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(features=self.width, kernel_size=(3, 3))(x))
        x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(features=4 * self.width)(x))
        return nn.Dense(features=10)(x)


class ResidualBlock(nn.Module):
    filters: int
    conv: nn.Module
    norm: nn.Module
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = nn.relu(self.norm()(y))
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm()(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return nn.relu(residual + y)


class ResNet(nn.Module):
    """A post-activation residual network for small images."""

    width: int
    stage_sizes: tuple[int, ...] = (2, 2)
    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train: bool = True):
        conv = partial(nn.Conv, use_bias=False, kernel_init=nn.initializers.he_normal())
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = conv(self.width // 2, (3, 3), name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = ResidualBlock(self.width // 2 * 2**i, conv=conv, norm=norm, strides=strides)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes)(x)


class DenseLayer(nnx.Module):
    def __init__(self, features, growth, *, rngs):
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.conv = nnx.Conv(features, growth, (3, 3), use_bias=False, kernel_init=nnx.initializers.he_normal(), rngs=rngs)

    def __call__(self, x):
        return jnp.concatenate([x, self.conv(nnx.relu(self.norm(x)))], axis=-1)


class DenseBlock(nnx.Module):
    def __init__(self, features, growth, depth, *, rngs):
        self.layers = nnx.List([DenseLayer(features + k * growth, growth, rngs=rngs) for k in range(depth)])

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class DenseNet(nnx.Module):
    """Two dense blocks of three layers, with a pointwise transition and average pooling in between."""

    def __init__(self, width, *, rngs):
        growth = width // 4
        self.stem = nnx.Conv(3, width // 2, (3, 3), use_bias=False, rngs=rngs)
        self.block1 = DenseBlock(width // 2, growth, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(5 * growth, rngs=rngs)
        self.transition = nnx.Conv(5 * growth, width // 2, (1, 1), use_bias=False, rngs=rngs)
        self.block2 = DenseBlock(width // 2, growth, 3, rngs=rngs)
        self.head_norm = nnx.BatchNorm(5 * growth, rngs=rngs)
        self.head = nnx.Linear(5 * growth, 10, rngs=rngs)

    def __call__(self, x):
        x = self.block1(self.stem(x))
        x = self.transition(nnx.relu(self.norm(x)))
        x = self.block2(nnx.avg_pool(x, (2, 2), strides=(2, 2)))
        return self.head(nnx.relu(self.head_norm(x)).mean(axis=(1, 2)))


class Separable(nn.Module):
    features: int
    strides: int
    train: bool

    @nn.compact
    def __call__(self, x):
        norm = partial(nn.BatchNorm, use_running_average=not self.train)
        x = nn.Conv(x.shape[-1], (3, 3), (self.strides,) * 2, feature_group_count=x.shape[-1], use_bias=False)(x)
        x = nn.relu6(norm()(x))
        x = nn.Conv(self.features, (1, 1), use_bias=False)(x)
        return nn.relu6(norm()(x))


class MobileNet(nn.Module):
    """A full convolution, then depthwise-separable ones, clipped ReLU throughout."""

    width: int

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.Conv(self.width // 2, (3, 3), (2, 2), use_bias=False)(x)
        x = nn.relu6(nn.BatchNorm(use_running_average=not train)(x))
        for features, strides in ((1, 1), (2, 2), (2, 1)):
            x = Separable(features * self.width // 2, strides, train)(x)
        x = x.mean(axis=(1, 2))
        return nn.Dense(10)(x)


ARCHITECTURES = {
    "Flax documentation CNN": Architecture("nnx", lambda n: lambda rngs: CNN(n, rngs=rngs), lambda: (digits(),), averaged=1 / 2),
    "Flax documentation CNN (linen)": Architecture("linen", LinenCNN, lambda: (digits(),), averaged=1 / 2),
    "ResNet": Architecture("linen", ResNet, lambda: (photo(8),), options={"train": False}, averaged=1 / 2),
    "DenseNet": Architecture("nnx", lambda n: lambda rngs: DenseNet(n, rngs=rngs), lambda: (photo(8),), averaged=1 / 4),
    "MobileNet": Architecture("linen", MobileNet, lambda: (photo(16),), options={"train": False}, averaged=1 / 2),
}
