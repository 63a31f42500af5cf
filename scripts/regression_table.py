"""Kernel regression on digits and on scikit-learn's tables, by the protocol of Arora et al. (2020), as a Markdown table.

    python scripts/regression_table.py [--only NAME ...] [--readme]

Features are standardized. Hyperparameters (number of hidden layers and ridge; C and gamma of the support vectors) are chosen by training
on a random half and validating on the other, then accuracies of 4-fold cross-validation on all examples are averaged: mean and standard
deviation over three orders of the examples, which are the same for all methods.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import product
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from readme import put, table
from rich.progress import track
from sklearn import datasets
from sklearn.svm import SVC

import sigprop as sp

MARKS = "<!-- regression table: written by make table -->", "<!-- end of regression table -->"
DATA: dict[str, Callable[[], Any]] = {"iris": datasets.load_iris, "wine": datasets.load_wine, "breast cancer": datasets.load_breast_cancer,
                                      "digits": datasets.load_digits}
DEPTHS, FOLDS, ORDERS = (1, 2, 3, 4, 5), 4, 3
COSTS, WIDTHS = 10.0 ** np.arange(-2, 5), 10.0 ** np.arange(-3, 3)  # of the support vectors; gamma is width / features
WIDTH = 512


def kernels(x: np.ndarray) -> dict[str, dict[int, Any]]:
    """NTK and NNGP of ReLU perceptrons by number of hidden layers."""
    found: dict[str, dict[int, Any]] = {"NTK": {}, "NNGP": {}}
    normal = nn.initializers.normal
    for depth in DEPTHS:
        hidden = [layer for _ in range(depth) for layer in (nn.Dense(WIDTH, kernel_init=nn.initializers.he_normal(), bias_init=normal(0.1)),
                                                            nn.relu)]
        kernel = sp.infinite_kernel(sp.network(nn.Sequential([*hidden, nn.Dense(1)]), x[:2]), "ntk")(x)
        found["NTK"][depth], found["NNGP"][depth] = kernel.ntk, kernel.nngp
    return found


def support_vectors(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> float:
    half = len(y) // 2

    def accuracy(cost: float, width: float, train: np.ndarray, test: np.ndarray) -> float:
        return float(SVC(C=cost, gamma=width / x.shape[1]).fit(x[train], y[train]).score(x[test], y[test]))

    best = max(product(COSTS, WIDTHS), key=lambda choice: accuracy(*choice, order[:half], order[half:]))
    parts = np.array_split(order, FOLDS)
    found = [accuracy(*best, np.concatenate(parts[:k] + parts[k + 1:]), part) for k, part in enumerate(parts)]
    return float(np.mean(found))


def row(name: str) -> list[str]:
    data = DATA[name]()
    x = np.asarray(data.data, np.float64)
    x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1)
    both, found = kernels(x), []
    for key in track(jax.random.split(jax.random.key(0), ORDERS), name, transient=True):
        ours = [sp.dynamics.cross_validate(which, data.target, folds=FOLDS, key=key).accuracy for which in both.values()]
        found.append([*ours, support_vectors(x, data.target, np.asarray(jax.random.permutation(key, len(x))))])
    means, spreads = 100 * np.mean(found, 0), 100 * np.std(found, 0, ddof=1)
    accuracies = [f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(means, spreads, strict=True)]
    return [name, str(len(x)), str(x.shape[1]), str(len(set(data.target))), *accuracies]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", action="store_true", help="write the table into the page of docs that has it")
    parser.add_argument("--only", nargs="+", default=list(DATA), choices=list(DATA))
    options = parser.parse_args()
    head = ["data", "examples", "features", "classes", "NTK, %", "NNGP, %", "RBF SVM, %"]
    with jax.enable_x64(True):
        text = table([head, *map(row, options.only)])
    print(text)
    if options.readme:
        put(text, MARKS, DATA)


if __name__ == "__main__":
    main()
