"""Initializers with explicit fans and exact moments, gains of activations, and parameterizations.

Classes and the functions that return them are callables ``(key, shape, dtype)`` for ``kernel_init`` of Flax, frozen and hashable;
``.law(shape)`` is the exact law of the entries.
"""

from sigprop.init.coordinates import SirenFirst, fourier_features, fourier_phase, siren
from sigprop.init.critical import CriticalPoint, critical, critical_point
from sigprop.init.fans import Fans
from sigprop.init.gains import gain, nfnet_gain
from sigprop.init.identity import Dirac, Identity, LooksLinear
from sigprop.init.independent import Constant, Normal, TruncatedNormal, Uniform
from sigprop.init.initializer import Initializer, Scaled
from sigprop.init.orthogonal import DeltaOrthogonal, Orthogonal
from sigprop.init.parameterization import CompleteP, MuP, Scaling, UnitMuP
from sigprop.init.residual import (
    DeepNorm,
    deep_norm,
    deep_norm_pair,
    fixup,
    gpt2,
    layer_scale,
    rezero,
    skip_init,
    t_fixup_decoder,
    t_fixup_encoder,
    zero_gamma,
)
from sigprop.init.scaling import VarianceScaling, he, lecun, small_embed, small_init, xavier

__all__ = [
    "CompleteP", "Constant", "CriticalPoint", "DeepNorm", "DeltaOrthogonal", "Dirac", "Fans", "Identity", "Initializer", "LooksLinear",
    "MuP", "Normal", "Orthogonal", "Scaled", "Scaling", "SirenFirst", "TruncatedNormal", "Uniform", "UnitMuP", "VarianceScaling",
    "critical", "critical_point", "deep_norm", "deep_norm_pair", "fixup", "fourier_features", "fourier_phase", "gain", "gpt2", "he",
    "layer_scale", "lecun", "nfnet_gain", "rezero", "siren", "skip_init", "small_embed", "small_init", "t_fixup_decoder",
    "t_fixup_encoder", "xavier", "zero_gamma",
]
