"""Network addresses as flags and files name them."""

import ipaddress
from typing import NamedTuple

from plasmacloud.base.errors import ConfigError


class Address(NamedTuple):
    """A host and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as etcd clients write it."""
        return self.url_with("http")

    def url_with(self, scheme: str) -> str:
        """The same behind another scheme: ``https``."""
        return f"{scheme}://{self}"


def parse_address(text: str, *, what: str = "address") -> Address:
    """Read ``host:port`` or ``[v6]:port``, also behind ``http://``, ``https://`` or ``tcp://``.

    Raises `ConfigError` naming ``what``.
    """
    rest = text.strip()
    for scheme in ("http://", "https://", "tcp://"):
        rest = rest.removeprefix(scheme)
    rest = rest.removesuffix("/")
    host, colon, port_text = rest.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"{what} {text!r} is ambiguous", hint="write IPv6 addresses in brackets: [::1]:2379")
    if not colon or not host or "/" in host or not port_text.isascii() or not port_text.isdigit():
        raise ConfigError(f"{what} {text!r} is not of the form host:port", hint="for example 127.0.0.1:2379")
    port = int(port_text)
    if not 0 < port < 65536:
        raise ConfigError(f"{what} {text!r} has an impossible port", hint="ports go from 1 to 65535")
    return Address(host, port)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
