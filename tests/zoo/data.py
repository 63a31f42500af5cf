"""Real inputs: handwritten digits, crops of a photo, a text, a line of pixels."""

from functools import cache

import numpy as np
from sklearn.datasets import load_digits, load_sample_image


def _standardised(x):
    return ((x - x.mean()) / x.std()).astype(np.float32)


@cache
def digits(count=2):
    """Handwritten digits [count, 8, 8, 1], mean 0 and variance 1 over all of them."""
    return _standardised(load_digits().images)[:count, ..., None]


@cache
def flat_digits(count=2):
    """The same digits as rows of 64 numbers."""
    return digits(count).reshape(count, 64)


@cache
def photo(size, count=2):
    """Square crops [count, size, size, 3] of a photo at half resolution."""
    image = _standardised(load_sample_image("china.jpg"))[::2, ::2]
    return np.stack([image[60:60 + size, 40 + 70 * k:40 + 70 * k + size] for k in range(count)])


@cache
def scanlines(length, count=2):
    """Rows of a photo's grey values as signals [count, length, 1]."""
    grey = _standardised(load_sample_image("flower.jpg").mean(axis=-1))
    return np.stack([grey[150 + 60 * k, 200:200 + length] for k in range(count)])[..., None]


@cache
def text(length, count=2):
    """Character codes below 128 [count, length] of a piece of English prose."""
    prose = load_digits().DESCR.encode("ascii", "ignore")
    start = prose.find(b"The data set contains")
    return np.stack([np.frombuffer(prose[start + 90 * k:start + 90 * k + length], np.uint8) for k in range(count)]).astype(np.int32)
