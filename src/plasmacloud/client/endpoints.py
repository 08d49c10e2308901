"""Which endpoint to ask next. Pure: time and randomness are handed in.

No endpoint is preferred by its place in the list: a client starts at a random one, so that many clients spread, and
then stays with the one that last answered, for its connection is warm. One that failed is left alone for a while,
twice as long each time; if all of them are in that state, all are tried, the one whose time is up first first.
"""

import random
from collections.abc import Sequence

import msgspec

from plasmacloud.base.errors import ConfigError

DEFAULT_PORT = 2379


class Endpoint(msgspec.Struct, frozen=True):
    """Where a server listens for clients, and whether it speaks TLS there."""

    host: str
    port: int
    secure: bool = False

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str, *, secure: bool = False) -> Endpoint:
    """From ``host:port``, ``host``, ``[v6]:port`` or the same behind ``http://`` or ``https://``.

    ``secure``: the caller brings certificates, so TLS is meant where nothing is said, and ``http://`` is a
    contradiction. Raises `ConfigError`.
    """
    hint = "write host:port, such as 127.0.0.1:2379"
    rest = text.strip()
    scheme, separator, behind = rest.partition("://")
    if separator:
        if scheme not in ("http", "https"):
            raise ConfigError(f"endpoint {text!r}: unknown scheme {scheme!r}", hint=hint)
        if scheme == "http" and secure:
            raise ConfigError(
                f"endpoint {text!r} is not to use TLS, and certificates are given", hint="write https://, or neither"
            )
        secure = scheme == "https"
        rest = behind.removesuffix("/")
    if rest.startswith("["):
        host, bracket, port_text = rest[1:].partition("]")
        if not bracket or (port_text and not port_text.startswith(":")):
            raise ConfigError(f"endpoint {text!r} is not an address", hint=hint)
        port_text = port_text[1:]
    elif rest.count(":") > 1:
        raise ConfigError(f"endpoint {text!r}: an IPv6 address needs brackets", hint="write [::1]:2379")
    else:
        host, _, port_text = rest.partition(":")
    if not host or any(c.isspace() or c == "/" for c in host):
        raise ConfigError(f"endpoint {text!r} has no host", hint=hint)
    if not port_text:
        return Endpoint(host, DEFAULT_PORT, secure)
    if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65536):
        raise ConfigError(f"endpoint {text!r}: {port_text!r} is not a port", hint=hint)
    return Endpoint(host, int(port_text), secure)


class EndpointState(msgspec.Struct):
    """What the last calls taught about one endpoint. ``retry_at``: loop time before which others are asked."""

    endpoint: Endpoint
    failures: int = 0
    retry_at: float = 0.0
    last_error: str = ""


class EndpointPool:
    """The order in which to ask, and the memory of what happened."""

    def __init__(
        self, endpoints: Sequence[Endpoint], rng: random.Random, *, backoff_first: float, backoff_max: float
    ) -> None:
        if not endpoints:
            raise ConfigError("no endpoints given", hint="name at least one host:port")
        self._states = {endpoint: EndpointState(endpoint) for endpoint in endpoints}
        self._ring = list(self._states)
        self._next = rng.randrange(len(self._ring))
        self._rng = rng
        self._backoff_first = backoff_first
        self._backoff_max = backoff_max

    def __len__(self) -> int:
        return len(self._ring)

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint in self._states

    @property
    def states(self) -> list[EndpointState]:
        """One for each endpoint, in the order they were given."""
        return list(self._states.values())

    def order(self, now: float) -> list[Endpoint]:
        """Whom to ask, in turn. Never empty. Endpoints in backoff are left out unless all of them are."""
        ring = self._ring[self._next :] + self._ring[: self._next]
        ready = [endpoint for endpoint in ring if self._states[endpoint].retry_at <= now]
        return ready or sorted(ring, key=lambda endpoint: self._states[endpoint].retry_at)

    def worked(self, endpoint: Endpoint) -> None:
        """It answered: forget its failures, and ask it first from now on."""
        state = self._states[endpoint]
        state.failures, state.retry_at, state.last_error = 0, 0.0, ""
        self._next = self._ring.index(endpoint)

    def declined(self, endpoint: Endpoint, problem: str) -> None:
        """It answered, but cannot serve at the moment: ask the one after it next."""
        state = self._states[endpoint]
        state.last_error = problem
        self._next = (self._ring.index(endpoint) + 1) % len(self._ring)

    def broke(self, endpoint: Endpoint, now: float, problem: str) -> None:
        """It could not be reached, or went silent: leave it alone for a while."""
        state = self._states[endpoint]
        state.failures += 1
        longest = min(self._backoff_max, self._backoff_first * 2.0 ** min(state.failures - 1, 30))
        state.retry_at = now + longest * self._rng.uniform(0.8, 1.0)
        state.last_error = problem
        if self._ring[self._next] == endpoint:
            self._next = (self._next + 1) % len(self._ring)
