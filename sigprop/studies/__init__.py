"""Named studies: one network each, predicted and measured, forward and backward.

Every module has a frozen ``Study`` of sizes and initializer, ``predict(study)`` and ``measure(study, seeds=64, key=None)``: the rows of
:func:`sigprop.propagate` and :func:`sigprop.measure` that matter.
"""

from sigprop.batch import run
from sigprop.studies import (
    attention_entropy,
    deep_autoencoder,
    densenet_bn,
    depthwise_conv,
    pointwise_conv,
    resnet_zero_gamma,
    transposed_conv,
    weight_norm,
)

__all__ = [
    "attention_entropy", "deep_autoencoder", "densenet_bn", "depthwise_conv", "pointwise_conv", "resnet_zero_gamma", "transposed_conv",
    "run", "weight_norm",
]
