"""Real architectures, unmodified: every model traces, is predicted, and agrees with measurement at every node.

Bound. A comparison fails when the gap exceeds ``t`` standard errors plus ``ALLOWANCE / (averaged * width)`` of the prediction, where ``t``
is the two-sided quantile of Student's distribution (groups of four seeds, so degrees of freedom = groups - 1) at which all comparisons of
one model together raise a false alarm once in 10^6 runs. The allowance is for finite width: with ``n`` channels averaged, what a
norm divides by and the variance that a nonlinearity sees fluctuate by O(1/n) of their value from each layer below; ``test_gap_falls``
holds that the gap does fall with the width.
"""

import numpy as np
import pytest
from scipy.stats import t as student
from zoo import ZOO

import sigprop as sp
from sigprop.engine import RULES, Context, Known, interpret, known
from sigprop.network import parameters

FALSE_ALARM = 1e-6
ALLOWANCE = 8
GROUP = 4
SLOW = {"ConvNeXt", "MobileNet", "ResNet", "DenseNet", "U-Net", "MLP-Mixer"}
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ZOO]


def quantile(groups, comparisons):
    return student.isf(FALSE_ALARM / comparisons / 2, groups - 1)


def excess(predicted, measured, width, seeds):
    """Largest ratio of gap to allowed gap, over second moments and correlations of all nodes, and the node that has it."""
    groups, comparisons = seeds // GROUP, predicted.second_moment.size + predicted.correlation.size
    t = quantile(groups, comparisons)
    second = abs(measured.second_moment - predicted.second_moment) / (
        t * measured.second_moment_stderr + ALLOWANCE / width * predicted.second_moment)
    correlation = abs(measured.correlation - predicted.correlation) / (t * measured.correlation_stderr + ALLOWANCE / width)
    worst = np.maximum(second, correlation.max(("input", "input2")))
    return float(worst.max()), str(worst.node[int(worst.argmax())].item())


@pytest.mark.parametrize("name", NAMES)
def test_prediction_agrees_with_measurement(name, width=64, seeds=64):
    architecture = ZOO[name]
    net, x = architecture.network(width), architecture.inputs()
    predicted, measured = sp.propagate(net, *x), sp.measure(net, *x, seeds=seeds)
    assert list(predicted.node.values) == list(measured.node.values)
    assert bool((predicted.second_moment > 0).all())
    ratio, node = excess(predicted, measured, architecture.averaged * width, seeds)
    assert ratio < 1, node
