"""Loss terms of physics-informed networks at initialization: their balance, kernels, weights, and the scale of the inputs."""

from sigprop.pinn.balance import balance_over, loss_balance
from sigprop.pinn.scale import BalancePoint, balance_point
from sigprop.pinn.tangents import TermKernel, ntk_spectra, recommended_weights
from sigprop.pinn.terms import Terms

__all__ = ["BalancePoint", "TermKernel", "Terms", "balance_over", "balance_point", "loss_balance", "ntk_spectra", "recommended_weights"]
