"""The derivative of max-pooling: which entry of a window is the largest, for windows that overlap, are padded, or hold equal entries."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from zoo.data import photo

import sigprop as sp

WINDOWS = {
    "apart": ((2, 2), (2, 2), "VALID"), "one axis": ((2, 1), (2, 1), "VALID"), "overlapping": ((3, 3), (1, 1), "VALID"),
    "padded": ((3, 3), (2, 2), "SAME"),
}


class Pooled(nn.Module):
    window: tuple
    strides: tuple
    padding: str
    smallest: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Conv(256, (3, 3), kernel_init=nn.initializers.he_normal())(x))
        x = nn.max_pool(-x if self.smallest else x, self.window, self.strides, self.padding)
        return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.mark.parametrize(("name", "smallest"), [("apart", True), *(
    pytest.param(name, False, marks=pytest.mark.slow) for name in ("apart", "one axis", "overlapping", "padded"))])
def test_gradients_of_every_layer(name, smallest):
    """256 seeds of 256 channels: 5 standard errors and 1 %."""
    x = photo(4, 1)
    net = sp.network(Pooled(*WINDOWS[name], smallest), x)
    found, measured = sp.propagate(net, x), sp.measure(net, x, seeds=256)
    gap = abs(measured.grad_variance - found.grad_variance)
    assert not found.gradients
    assert bool((gap <= 5 * measured.grad_variance_stderr + 0.01 * found.grad_variance).all()), gap / found.grad_variance


@pytest.mark.parametrize(("window", "strides"), [(2, 2), (3, 1)])
def test_equal_entries(window, strides):
    """Each window hands on all that it gets to one entry, the first of equal ones: two equal inputs in every pair, the second never."""
    x = np.repeat(photo(4, 1)[:, 0], 2, axis=1)  # each pixel twice
    apply = lambda params, x: nn.max_pool(x @ params, (window,), (strides,)).sum(1)  # noqa: E731
    net = sp.network(apply, x, init=lambda key: nn.initializers.lecun_normal()(key, (3, 512), jnp.float32))
    found, measured = sp.propagate(net, x), sp.measure(net, x, seeds=64)
    np.testing.assert_allclose(found.grad_variance[0], measured.grad_variance[0], rtol=0.02)
