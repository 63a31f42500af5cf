"""Models as pure functions with random parameters."""

from sigprop.network.adapters import network
from sigprop.network.backward import backward, backward_graph
from sigprop.network.checks import check_inputs, check_pair
from sigprop.network.counted import Assumption
from sigprop.network.fans import Fan, Fans, check_network, counted_fans, fans
from sigprop.network.law import Laws
from sigprop.network.laws import parameters
from sigprop.network.network import Network
from sigprop.network.paths import parameter_paths
from sigprop.types import Law

__all__ = [
    "Assumption", "Fan", "Fans", "Law", "Laws", "Network", "backward", "backward_graph", "check_inputs", "check_network", "check_pair",
    "counted_fans", "fans", "network", "parameter_paths", "parameters",
]
