"""Real inputs for the command line: digits, a photo, a text, or the user's own arrays. Each is a batch on axis 0."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from sigprop.errors import InvalidInput

NAMES = ("digits", "photo", "tokens")


def load(name: str, examples: int, shape: Sequence[int] | None, vocabulary: int) -> np.ndarray:
    """The input called ``name``: float32, or int32 for tokens; ``[examples, *shape]``.

    Args:
        name: ``digits`` (scikit-learn's, standardized, ``shape`` (64,) by default), ``photo`` (standardized crops of scikit-learn's
            "china", (32, 32, 3); last axis 1 for grey), ``tokens`` (characters of an English text by rank of frequency, (16,)), or a
            path ending in ``.npy``, whose axis 0 is the batch.
        examples: number of examples; of a file, at most so many.
        shape: of one example.
        vocabulary: number of different tokens; rarer characters share the last one.

    Raises:
        InvalidInput: for an unknown name, an unreadable or unusable file, or a shape that does not fit.
    """
    if examples < 1:
        raise InvalidInput(f"--examples: {examples} given; at least 1 is needed")
    if vocabulary < 2:
        raise InvalidInput(f"--vocabulary: {vocabulary} given; at least 2 are needed")
    if shape is not None and any(n < 1 for n in shape):
        raise InvalidInput(f"--shape: {','.join(map(str, shape))} has an axis below 1")
    if name == "digits":
        return _digits(examples, shape or (64,))
    if name == "photo":
        return _photo(examples, shape or (32, 32, 3))
    if name == "tokens":
        return _tokens(examples, shape or (16,), vocabulary)
    if name.endswith(".npy"):
        return _file(name, examples, shape)
    raise InvalidInput(f"--input: '{name}' is none of {', '.join(NAMES)} and does not end in .npy")


def _datasets() -> Any:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InvalidInput("--input: digits and photo need scikit-learn: pip install 'sigprop[studies]'") from error
    return datasets


def standardized(array: Any) -> np.ndarray:
    """Float32 with mean 0 and variance 1 over all entries."""
    array = np.asarray(array, np.float64)
    return ((array - array.mean()) / array.std()).astype(np.float32)


def digit_labels() -> np.ndarray:
    """Which digit each of scikit-learn's images shows, int32 ``[1797]``.

    Raises:
        InvalidInput: where scikit-learn is not installed.
    """
    return np.asarray(_datasets().load_digits().target, np.int32)


def _digits(examples: int, shape: Sequence[int]) -> np.ndarray:
    if prod(shape) != 64:
        raise InvalidInput(f"--shape: {','.join(map(str, shape))} does not hold the 64 pixels of a digit; try 64 or 8,8,1")
    data = standardized(_datasets().load_digits().data)
    if examples > len(data):
        raise InvalidInput(f"--examples: {examples} given, digits has {len(data)}")
    return data[:examples].reshape(-1, *shape)


def _photo(examples: int, shape: Sequence[int]) -> np.ndarray:
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise InvalidInput(f"--shape: {','.join(map(str, shape))} is not height,width,channels with 3 channels (colour) or 1 (grey)")
    image = np.asarray(_datasets().load_sample_image("china.jpg"), np.float64)
    rows, columns = (n // 4 for n in image.shape[:2])
    image = image[:4 * rows, :4 * columns].reshape(rows, 4, columns, 4, 3).mean((1, 3))  # every fourth pixel, without aliasing
    if shape[2] == 1:
        image = image.mean(-1, keepdims=True)
    corners = [(r, c) for r in range(0, rows - shape[0] + 1, shape[0]) for c in range(0, columns - shape[1] + 1, shape[1])]
    if examples > len(corners):
        raise InvalidInput(f"--examples: {examples} crops of {shape[0]}x{shape[1]} given, the {rows}x{columns} photo holds {len(corners)}")
    image = standardized(image)
    return np.stack([image[r:r + shape[0], c:c + shape[1]] for r, c in corners[:examples]])


def _tokens(examples: int, shape: Sequence[int], vocabulary: int) -> np.ndarray:
    text = inspect.getdoc(np.einsum) or ""  # several pages of English that every installation has
    need = examples * prod(shape)
    if need > len(text):
        raise InvalidInput(f"--shape: {examples} x {','.join(map(str, shape))} tokens asked for, the text has {len(text)}")
    rank = {character: min(k, vocabulary - 1) for k, (character, _) in enumerate(Counter(text).most_common())}
    return np.asarray([rank[c] for c in text[:need]], np.int32).reshape(examples, *shape)


def _file(name: str, examples: int, shape: Sequence[int] | None) -> np.ndarray:
    try:
        array = np.load(Path(name), allow_pickle=False)
    except FileNotFoundError as error:
        raise InvalidInput(f"--input: no file {name}; give a path from {Path.cwd()}, or one of {', '.join(NAMES)}") from error
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"--input: {name} is not a readable .npy array: {error}") from error
    if not isinstance(array, np.ndarray) or not (np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)):
        raise InvalidInput(f"--input: {name} holds {getattr(array, 'dtype', 'several arrays')}, not real numbers or integers")
    if array.ndim == 0 or 0 in array.shape:
        raise InvalidInput(f"--input: {name} has shape {array.shape}; axis 0 must hold at least one example")
    if not np.all(np.isfinite(array)):
        raise InvalidInput(f"--input: {name} has NaN or infinite entries")
    array = array[:examples]
    array = array.astype(np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32)
    if shape is None:
        return array
    if prod(shape) != array[0].size:
        raise InvalidInput(f"--shape: {','.join(map(str, shape))} does not hold the {array[0].size} entries of one example of {name}")
    return array.reshape(-1, *shape)
