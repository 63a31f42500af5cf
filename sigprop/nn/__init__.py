"""Small Flax NNX modules: networks whose initializers, activations, norms and starts of branches are arguments."""

from sigprop.nn.attention import SelfAttention
from sigprop.nn.convolution import CNN, Convolution, Depthwise, Grouped, Pointwise, Separable, Transposed
from sigprop.nn.coordinates import PINN, FourierFeatures, Frequencies, ModifiedMLP, Siren
from sigprop.nn.decoder import Decoder, UNet
from sigprop.nn.dense import MLP, Autoencoder
from sigprop.nn.densenet import DenseLayer, DenseNet, no_norm
from sigprop.nn.masked import BlockMask, GivenMask, MagnitudeMask, Mask, Masked, MaskedConv, MaskedLinear, RandomMask
from sigprop.nn.recurrent import RecurrentClassifier
from sigprop.nn.reparametrized import (
    Reparametrized,
    StandardizedConv,
    StandardizedLinear,
    WeightNorm,
    WeightNormConv,
    WeightNormLinear,
    WeightStandardized,
)
from sigprop.nn.resnet import PostActivation, PreActivation, ResNet
from sigprop.nn.start import Fixup, Gain, Gamma, LayerScale, Plain, ReZero, Shift, SkipInit, ZeroGamma
from sigprop.nn.transformer import DecoderBlock, EncoderBlock, FeedForward, PostNorm, PreNorm, SandwichNorm

__all__ = [
    "BlockMask", "CNN", "Convolution", "Decoder", "DecoderBlock", "DenseLayer", "DenseNet", "Depthwise", "EncoderBlock", "FeedForward",
    "Fixup", "FourierFeatures", "Frequencies", "Gain", "Gamma", "GivenMask", "Grouped", "LayerScale", "MLP", "MagnitudeMask", "Autoencoder",
    "Mask", "Masked", "MaskedConv", "MaskedLinear", "ModifiedMLP", "PINN", "Plain", "Pointwise", "PostActivation", "PostNorm",
    "PreActivation", "PreNorm", "RandomMask", "ReZero", "RecurrentClassifier", "Reparametrized", "ResNet", "SandwichNorm",
    "SelfAttention", "Separable", "Shift", "Siren", "SkipInit", "StandardizedConv", "StandardizedLinear", "Transposed", "UNet",
    "WeightNorm", "WeightNormConv", "WeightNormLinear", "WeightStandardized", "ZeroGamma", "no_norm",
]
