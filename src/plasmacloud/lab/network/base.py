"""What a network is to a scenario: hosts, ways between them, cuts, and counters that prove that a cut was one.

A way has a direction. Cutting both between two hosts is a symmetric partition, cutting one of them is a one-way one.
The lab itself stands outside: it reaches every service through a door that no cut closes, as somebody at the console
of an isolated machine would.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence

import msgspec

LOOPBACK = "127.0.0.1"


class Way(msgspec.Struct, frozen=True, order=True):
    """From one host to another."""

    src: str
    dst: str

    def __str__(self) -> str:
        return f"{self.src} -> {self.dst}"


def both(one: str, other: str) -> tuple[Way, Way]:
    """A symmetric cut between two hosts."""
    return Way(one, other), Way(other, one)


def isolate(host: str, others: Iterable[str]) -> tuple[Way, ...]:
    """A symmetric cut between one host and all others."""
    return tuple(way for other in others if other != host for way in both(host, other))


class Stopped(msgspec.Struct, frozen=True):
    """What a cut has kept from arriving so far."""

    packets: int
    bytes: int


class Network(ABC):
    """Hosts and the ways between them. ``services``: the ports that somebody listens on, by host.

    `open` makes the hosts, on the main thread; `start` is awaited before anything uses them. Everything that was made
    is gone after `close`, and after the death of the process that made it.
    """

    kind: str
    unit: str
    """What `Stopped.packets` counts."""

    def __init__(self, services: Mapping[str, Sequence[int]]) -> None:
        self.hosts = tuple(services)
        self.services = {host: tuple(ports) for host, ports in services.items()}
        self.ways: frozenset[Way] = frozenset()
        """What is cut at present."""

    @abstractmethod
    def open(self) -> None:
        """Make the hosts. Raises `ConfigError` when that cannot be done here; nothing is left then."""

    async def start(self) -> None:  # noqa: B027 - not every network has anything to do
        """Begin to carry traffic."""

    @abstractmethod
    def inside(self, host: str, *, refuses_root: bool = False) -> tuple[str, ...]:
        """The words before a command that is to run on the host. ``refuses_root``: its program does."""

    @abstractmethod
    def listen(self, host: str) -> str:
        """The address that services on the host listen on. Each must be reachable at 127.0.0.1 on the host itself."""

    @abstractmethod
    def reach(self, src: str, dst: str, port: int) -> tuple[str, int]:
        """Where programs on ``src`` find a service of ``dst``. The lab finds it at 127.0.0.1 and ``port``."""

    async def cut(self, ways: Iterable[Way]) -> None:
        """From now on nothing arrives on these ways, nor on those cut before. Counters begin at nought."""
        self._check(ways := frozenset(ways))
        self.ways |= ways
        await self._apply()

    async def heal(self) -> None:
        """Nothing is cut any more."""
        self.ways = frozenset()
        await self._apply()

    @abstractmethod
    async def _apply(self) -> None:
        """Make `ways` true."""

    @abstractmethod
    async def stopped(self) -> dict[Way, Stopped]:
        """What has been stopped so far on each way that is cut: the proof that it is."""

    @abstractmethod
    def close(self) -> None:
        """Remove everything. Does nothing the second time."""

    async def proof(self) -> tuple[bool, str]:
        """Whether something was stopped on every way that is cut, and the counters in words."""
        found = await self.stopped()
        said = "; ".join(
            f"{way}: {each.packets} {self.unit}, {each.bytes} bytes stopped" for way, each in sorted(found.items())
        )
        return bool(found) and all(each.packets for each in found.values()), f"{self.kind}: {said or 'nothing is cut'}"

    def _check(self, ways: Iterable[Way]) -> None:
        unknown = {host for way in ways for host in (way.src, way.dst)} - set(self.hosts)
        assert not unknown, f"no such hosts: {unknown}"
