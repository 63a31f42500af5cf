"""Models as pure functions with random parameters."""

from sigprop.network.adapters import network
from sigprop.network.fans import Fan, fans
from sigprop.network.laws import Law, parameters
from sigprop.network.network import Network, check_inputs

__all__ = ["Fan", "Law", "Network", "check_inputs", "fans", "network", "parameters"]
