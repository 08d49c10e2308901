"""A network that can be cut: hosts in namespaces where the kernel allows them, proxies on loopback elsewhere.

Both are a `Network`, so a scenario says what is cut and does not know how.
"""

from plasmacloud.lab.network.base import Network, Stopped, Way, both, isolate
from plasmacloud.lab.network.choose import MECHANISMS, NAMESPACES, PROXIES, choose, make_network

__all__ = [
    "MECHANISMS",
    "NAMESPACES",
    "PROXIES",
    "Network",
    "Stopped",
    "Way",
    "both",
    "choose",
    "isolate",
    "make_network",
]
