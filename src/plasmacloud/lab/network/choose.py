"""Which network there can be here. Tried, not guessed: kernels, containers and policies differ."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.network.base import Network
from plasmacloud.lab.network.namespaces import NamespaceNetwork, namespaces_problem
from plasmacloud.lab.network.proxies import ProxyNetwork

NAMESPACES = "namespaces"
PROXIES = "proxies"
MECHANISMS = (NAMESPACES, PROXIES)


def choose(wanted: str | None = None) -> tuple[str, str]:
    """The mechanism, and why it is not the better one, empty when it is. Raises `ConfigError` when the one that was
    named cannot be had."""
    problem = namespaces_problem() if wanted in (None, NAMESPACES) else ""
    match wanted:
        case None:
            return (PROXIES, f"no network namespaces: {problem}") if problem else (NAMESPACES, "")
        case "namespaces":
            if problem:
                raise ConfigError(f"no network namespaces here: {problem}", hint=f"use --network {PROXIES}")
            return NAMESPACES, ""
        case "proxies":
            return PROXIES, "proxies were asked for"
        case _:
            raise ConfigError(f"there is no network {wanted!r}", hint=f"it is one of {', '.join(MECHANISMS)}")


def make_network(mechanism: str, services: Mapping[str, Sequence[int]], logs: Path) -> Network:
    """The network, not open yet."""
    return NamespaceNetwork(services, logs) if mechanism == NAMESPACES else ProxyNetwork(services)
