"""Real architectures, unmodified: every model traces, is predicted, and agrees with measurement at every node.

Bound. A comparison fails when the gap exceeds ``t`` standard errors plus ``ALLOWANCE / (averaged * width)`` of the prediction, where ``t``
is the two-sided quantile of Student's distribution (groups of four seeds, so degrees of freedom = groups - 1) at which all comparisons of
one model together raise a false alarm once in 10^6 runs. The allowance is for finite width: with ``n`` channels averaged, what a
norm divides by and the variance that a nonlinearity sees fluctuate by O(1/n) of their value from each layer below;
``test_gap_falls_as_one_over_width`` measures the coefficient.
"""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from zoo import ZOO
from zoo.scaling import fit, gap

import sigprop as sp
from sigprop.engine import RULES, Context, interpret, known
from sigprop.network import parameters

FALSE_ALARM = 1e-6
ALLOWANCE = 4
GROUP = 4
SLOW = {"MBConv with squeeze-excite", "U-Net with max-pooling", "Weight-standardized ResNet",
        "Causal language model", "Llama-like language model", "ViT", "LSTM classifier", "MobileNet", "ResNet", "MLP-Mixer",
        "DenseNet", "WaveNet-like causal stack", "Flax documentation CNN (linen)", "U-Net", "ConvNeXt", "Zero-gamma ResNet"}
SCALED = ("Tanh MLP", "Weight-normalized MLP", "Pure-function MLP")


def cases():
    """Every architecture with its marks."""
    made = []
    for name in ZOO:
        made.append(pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []))
    return made


def excess(predicted, measured, channels, seeds):
    """Largest ratio of gap to allowed gap over second moments and correlations, and the node that has it."""
    comparisons = predicted.second_moment.size + predicted.correlation.size
    t = student.isf(FALSE_ALARM / comparisons / 2, seeds // GROUP - 1)
    allowed = t * measured.second_moment_stderr + ALLOWANCE / channels * predicted.second_moment
    second = abs(measured.second_moment - predicted.second_moment) / allowed
    correlation = abs(measured.correlation - predicted.correlation) / (t * measured.correlation_stderr + ALLOWANCE / channels)
    worst = np.maximum(second.values, correlation.values.max(axis=(1, 2)))
    return worst.max(), str(predicted.node.values[worst.argmax()])


@pytest.mark.parametrize("name", cases())
def test_prediction_agrees_with_measurement(name, width=64, seeds=64):
    architecture = ZOO[name]
    net, x = architecture.network(width), architecture.inputs()
    predicted, measured = sp.propagate(net, *x, backward=False), sp.measure(net, *x, seeds=seeds, backward=False)
    assert list(predicted.node.values) == list(measured.node.values)
    alive = predicted.second_moment.values > 0  # branches that start at zero are exactly that
    assert ((measured.second_moment.values > 0) == alive).all()
    ratio, node = excess(predicted.isel(node=alive), measured.isel(node=alive), architecture.averaged * width, seeds)
    assert ratio < 1, node


@pytest.mark.slow
@pytest.mark.parametrize("name", SCALED)
def test_gap_falls_as_one_over_width(name, widths=(16, 32, 64), seeds=1024):
    """The gap is ``limit + slope / width``: no limit is left over, and the slope stays below the allowance."""
    gaps = []
    for width in widths:
        net, x = ZOO[name].network(width), ZOO[name].inputs()
        gaps.append(gap(sp.propagate(net, *x, backward=False), sp.measure(net, *x, seeds=seeds, backward=False)))
    line = fit(widths, gaps)
    z = norm.isf(FALSE_ALARM / len(line.limit) / 2)
    curvature = (2 / min(widths)) ** 2  # the next order, of relative size depth / width
    assert (abs(line.limit) < z * line.limit_error + curvature).all(), line
    assert (abs(line.slope) - z * line.slope_error < ALLOWANCE).all(), line


class Recorded(dict):
    """A table of rules that notes which primitives met a random value."""

    def __init__(self, rules):
        super().__init__(rules)
        self.asked = set()

    def get(self, name, default=None):
        self.asked.add(name)
        return super().get(name, default)


def refusal(net, x, rules):
    """Message of the error that interpreting the model ends with, if any."""
    context = Context(rules)
    try:
        values, _ = parameters(context, net)
        interpret(context, net.graph(*x), [*values, *(known(a) for a in x)])
    except sp.SigpropError as error:
        return str(error)
    except MemoryError:
        return "out of memory"
    return ""


@pytest.mark.parametrize("name", cases())
def test_every_primitive_has_a_rule_or_is_constant_or_refused(name):
    """Primitives that never meet a random value are evaluated as they are; the others need a rule, or a refusal that says where."""
    architecture, rules = ZOO[name], Recorded(RULES)
    net, x = architecture.network(64), architecture.inputs()
    message = refusal(net, x, rules)
    for primitive in rules.asked - set(RULES):
        assert f"no rule for the primitive '{primitive}'" in message and ".py:" in message
    if not message:
        reached = {op.name for op in net.graph(*x).ops}
        assert {"dot_general", "conv_general_dilated"} & reached & rules.asked
