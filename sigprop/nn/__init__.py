"""nn."""
from sigprop.nn.dense import MLP, Autoencoder
from sigprop.nn.masked import BlockMask, GivenMask, Mask, Masked, MaskedConv, MaskedLinear, RandomMask
from sigprop.nn.reparametrized import (
    Reparametrized,
    StandardizedConv,
    StandardizedLinear,
    WeightNorm,
    WeightNormConv,
    WeightNormLinear,
    WeightStandardized,
)
