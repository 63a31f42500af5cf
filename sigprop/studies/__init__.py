"""Named studies, predicted and measured, whose claims are checked, and batches of any function over a grid (:func:`run`).

Every module has the frame of :mod:`sigprop.studies.frame`: a ``Config``, ``compute``, ``claims`` and ``draw``. Those of one network have a
frozen ``Study`` of sizes and initializer, ``predict(study)`` and ``measure(study, seeds=64, key=None)`` too: the rows of
:func:`sigprop.propagate` and :func:`sigprop.measure` that matter.
"""

from sigprop.batch import run
from sigprop.studies import (
    adam_second_moment,
    attention_entropy,
    batchnorm_explosion,
    deep_autoencoder,
    densenet_bn,
    depthwise_conv,
    edge_of_chaos,
    finite_width,
    fp16_subnormals,
    int8_quantization,
    ntk_init,
    pinn_derivatives,
    pointwise_conv,
    rank_collapse,
    resnet_zero_gamma,
    sparse_lottery,
    transposed_conv,
    weight_norm,
)
from sigprop.studies.frame import Claim

__all__ = [
    "Claim", "adam_second_moment", "attention_entropy", "batchnorm_explosion", "deep_autoencoder", "densenet_bn", "depthwise_conv",
    "edge_of_chaos", "finite_width", "fp16_subnormals", "int8_quantization", "ntk_init", "pinn_derivatives", "pointwise_conv",
    "rank_collapse", "resnet_zero_gamma", "run", "sparse_lottery", "transposed_conv", "weight_norm",
]
