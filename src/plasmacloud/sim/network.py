"""The simulated network: connections between processes as pipes of bytes, and everything that can happen to them.

Above it the real transport between members runs, with its greetings, its keepalive and its redialling. One ``write`` of
that is always a whole number of frames, so a write is the unit in which the network does harm: a written piece may come
late, twice, after its successor, or never. (TCP does none of the last three. The consensus above promises to bear them
all the same, and the simulator holds it to its word.)

The state of the ways between machines is directional and is set by faults: *blocked* ways hold what is written until
they open again, as retransmission would; a *cut* connection is lost with notice, both sides learn of it at once; a
connection *gone dark* is lost without, and only the keepalive of the processes can find out.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

import msgspec

from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.loop import SimLoop
from plasmacloud.sim.trace import Trace

Machine = str
"""A machine's host name: every process of a cluster has one of its own."""

_RETRANSMIT_NS = 200_000_000
_DIALLER_PORT = 50_000
_CALM_JITTERS = 4.0
"""Where nothing is at fault, no piece comes later than this many times the mean: the longest of many thousand would
outlast an election timeout, and it is right to stand for election then."""


class NetworkOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the network is like in one run. Times in seconds, the rest probabilities for each written piece.

    ``delay_s`` is the least time on the way, ``jitter_s`` the mean of what comes on top. ``grain_s``: arrivals are put
    off to the next multiple, so that a process finds several at once. ``stall``: as if a packet was lost and sent
    again. ``drop``, ``duplicate`` and ``reorder`` are what TCP never does.
    """

    delay_s: float = 0.0002
    jitter_s: float = 0.0002
    grain_s: float = 0.0
    stall: float = 0.001
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


class Listener:
    """A process that takes connections; stands for asyncio's server and its socket."""

    def __init__(
        self, network: "Network", loop: SimLoop, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> None:
        self.loop = loop
        self.factory = factory
        self.sockets = [self]
        self._network = network
        self._address = (host, port)

    def getsockname(self) -> tuple[str, int]:
        """Where it listens."""
        return self._address

    def close(self) -> None:
        """Take no more connections."""
        self._network.stop_listening(self._address[0], self)

    async def wait_closed(self) -> None:
        """It is closed at once."""


class End(asyncio.Transport):
    """One end of a connection, as its process sees it."""

    def __init__(self, network: "Network", loop: SimLoop, protocol: asyncio.Protocol, here: Machine, there: Machine):
        super().__init__()
        self.other: End = self
        self.loop = loop
        self.protocol = protocol
        self.here = here
        self.there = there
        self.closing = False
        self.told = False  # the process was told that the connection is over
        self.dark = False
        self.arrives_ns = 0  # when the last piece written here arrives there
        self.held: list[bytes] = []  # pieces that wait for the way to open
        self.reading = True
        self.unread: list[bytes] = []
        self._network = network

    # asyncio.Transport

    def write(self, data: bytes) -> None:  # type: ignore[override]
        if not self.closing and data:
            self._network.carry(self, data)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        return sum(map(len, self.held)) if self.held else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return (self.there, _DIALLER_PORT) if name == "peername" else default

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        unread, self.unread = self.unread, []
        for data in unread:
            self.loop.call_soon(self.receive, data)

    def close(self) -> None:
        self._network.hang_up(self, abruptly=False)

    def abort(self) -> None:
        self._network.hang_up(self, abruptly=True)

    # What happens to it, as events of its process

    def receive(self, data: bytes) -> None:
        """Bytes arrive."""
        if self.told or self.closing or self.dark:
            return
        if self.reading:
            self._network.trace.received(self.here, self.there, data)
            self.protocol.data_received(data)
        else:
            self.unread.append(data)

    def lose(self, error: Exception | None) -> None:
        """The connection is over."""
        if not self.told:
            self.told = self.closing = True
            self.protocol.connection_lost(error)


class Network:
    """All ways and all connections. ``machine_up``: whether anything there would answer a packet."""

    def __init__(
        self,
        world: World,
        options: NetworkOptions,
        rng: random.Random,
        trace: Trace,
        machine_up: Callable[[Machine], bool],
    ) -> None:
        self.options = options
        self.trace = trace
        self.faulty = True  # probabilities count, and delays have no limit
        self.cut_count = 0
        self._world = world
        self._rng = rng
        self._machine_up = machine_up
        self._listeners: dict[Machine, Listener] = {}
        self._ends: dict[End, None] = {}  # every end that stands, oldest first
        self._blocked: dict[tuple[Machine, Machine], int] = {}  # by how many faults
        self._slow: dict[tuple[Machine, Machine], float] = {}  # factor of the delay
        self._grain_ns = round(options.grain_s * NS_PER_S)

    # For SimLoop

    def listen(self, loop: SimLoop, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Listener:
        """Take connections to a machine. One process listens on each."""
        assert host not in self._listeners, "the machine's port is free"
        listener = self._listeners[host] = Listener(self, loop, factory, host, port)
        return listener

    def stop_listening(self, host: Machine, listener: Listener) -> None:
        """Take no more connections to it."""
        if self._listeners.get(host) is listener:
            del self._listeners[host]

    async def connect(
        self, loop: SimLoop, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """Dial. Hangs when nothing answers; raises ``ConnectionRefusedError`` when nobody listens."""
        here = self._machine_of(loop)
        answered = loop.create_future()
        self._world.at(self._world.now_ns + self._delay_ns(here, host), None, self._syn, loop, here, host, answered)
        listener: Listener | None = await answered
        if listener is None:
            raise ConnectionRefusedError(111, "Connection refused")
        end = End(self, loop, factory(), here, host)
        far = End(self, listener.loop, listener.factory(), host, here)
        end.other, far.other = far, end
        self._ends[end] = self._ends[far] = None
        if listener.loop.dead or not self._is_open(here, host):
            end.dark = far.dark = True
        else:
            self._world.at(self._world.now_ns, listener.loop, far.protocol.connection_made, far)
        end.protocol.connection_made(end)
        return end, end.protocol

    def _syn(self, loop: SimLoop, here: Machine, host: Machine, answered: "asyncio.Future[Listener | None]") -> None:
        """The first packet arrives, or does not."""
        if not self._machine_up(host) or not self._is_open(here, host) or loop.dead:
            return  # silence
        delay_ns = self._delay_ns(host, here)
        self._world.at(self._world.now_ns + delay_ns, loop, _answer, answered, self._listeners.get(host))

    def name_process(self, loop: SimLoop, machine: Machine) -> None:
        """Which machine a process runs on."""
        loop.machine = machine  # type: ignore[attr-defined]

    @staticmethod
    def _machine_of(loop: SimLoop) -> Machine:
        return cast(Machine, loop.machine)  # type: ignore[attr-defined]

    # Carrying bytes

    def carry(self, end: End, data: bytes) -> None:
        """Bring a written piece to the other side, one way or another."""
        if end.dark:
            return
        if self._blocked and (end.here, end.there) in self._blocked:
            end.held.append(data)
            return
        delay_ns = self._delay_ns(end.here, end.there)
        options = self.options
        if self.faulty:
            rng = self._rng
            if options.stall and rng.random() < options.stall:
                delay_ns += _RETRANSMIT_NS
                self.trace.count("stall")
            if _is_frames(data):
                if options.drop and rng.random() < options.drop:
                    self.trace.count("drop")
                    return
                if options.duplicate and rng.random() < options.duplicate:
                    self.trace.count("duplicate")
                    self._arrive(end, data, self._world.now_ns + delay_ns + self._delay_ns(end.here, end.there))
                if options.reorder and rng.random() < options.reorder:
                    self.trace.count("reorder")
                    self._arrive(end, data, self._world.now_ns + delay_ns + 4 * self._delay_ns(end.here, end.there))
                    return
        end.arrives_ns = max(end.arrives_ns, self._world.now_ns + delay_ns)
        self._arrive(end, data, end.arrives_ns)

    def _arrive(self, end: End, data: bytes, time_ns: int) -> None:
        other = end.other
        self._world.at(self._grained(time_ns), other.loop, other.receive, data)

    def _grained(self, time_ns: int) -> int:
        return time_ns + -time_ns % self._grain_ns if self._grain_ns else time_ns

    def _delay_ns(self, here: Machine, there: Machine) -> int:
        options = self.options
        delay_s = options.delay_s
        if options.jitter_s:
            jitters = self._rng.expovariate(1.0)
            delay_s += options.jitter_s * (jitters if self.faulty else min(jitters, _CALM_JITTERS))
        if self._slow:
            delay_s *= self._slow.get((here, there), 1.0)
        return round(delay_s * NS_PER_S)

    def hang_up(self, end: End, *, abruptly: bool) -> None:
        """This side ends the connection; what is on its way arrives first, unless it is abrupt."""
        if end.closing:
            return
        end.closing = True
        if abruptly:
            end.held.clear()
        end.loop.call_soon(end.lose, None)
        self._ends.pop(end, None)
        if not end.dark and self._is_open(end.here, end.there):
            time_ns = max(end.arrives_ns, self._world.now_ns + self._delay_ns(end.here, end.there))
            self._world.at(self._grained(time_ns), end.other.loop, self._hung_up, end.other)

    def _hung_up(self, end: End) -> None:
        self._ends.pop(end, None)
        end.closing = True
        end.lose(None)

    # Faults

    def _is_open(self, here: Machine, there: Machine) -> bool:
        return (here, there) not in self._blocked and (there, here) not in self._blocked

    def block(self, here: Machine, there: Machine) -> None:
        """Nothing gets from here to there, until each `block` has been taken back by an `unblock`."""
        self._blocked[here, there] = self._blocked.get((here, there), 0) + 1

    def unblock(self, here: Machine, there: Machine) -> None:
        """If nobody else blocks it, the way is open again; what was written is sent again, in its order."""
        left = self._blocked.pop((here, there)) - 1
        if left:
            self._blocked[here, there] = left
            return
        for end in [end for end in self._ends if (end.here, end.there) == (here, there) and end.held]:
            held, end.held = end.held, []
            end.arrives_ns = max(end.arrives_ns, self._world.now_ns + round(self._rng.random() * _RETRANSMIT_NS))
            for data in held:
                self._arrive(end, data, end.arrives_ns)

    def is_blocked(self, here: Machine, there: Machine) -> bool:
        """Whether the way is closed."""
        return (here, there) in self._blocked

    def slow_down(self, here: Machine, there: Machine, factor: float) -> None:
        """From now on everything takes so many times as long; 1: as before."""
        if factor == 1.0:
            self._slow.pop((here, there), None)
        else:
            self._slow[here, there] = factor

    def cut(self, one: Machine, other: Machine) -> None:
        """Reset the connections between two machines; both notice."""
        for end in self._between(one, other):
            self._ends.pop(end, None)
            if not end.closing:
                end.closing = True
                self._world.at(self._world.now_ns, end.loop, end.lose, ConnectionResetError(104, "Connection reset"))

    def darken(self, one: Machine, other: Machine) -> None:
        """The connections between two machines are lost, and nobody notices by himself."""
        for end in self._between(one, other):
            end.dark = True

    def process_ended(self, machine: Machine, *, silently: bool) -> None:
        """The process on a machine is gone: its connections with it, with a word from its kernel or without."""
        self._listeners.pop(machine, None)
        for end in [end for end in self._ends if machine in (end.here, end.there)]:
            if end.here == machine:
                self._ends.pop(end)
            elif silently or not self._is_open(machine, end.here):
                end.dark = True
            elif not end.closing:
                delay_ns = self._delay_ns(machine, end.here)
                self._world.at(self._world.now_ns + delay_ns, end.loop, self._hung_up, end)

    def machine_answers(self, machine: Machine) -> None:
        """A machine that was gone runs again: it knows nothing of old connections, and says so to who uses them."""
        for end in [end for end in self._ends if end.there == machine and end.dark]:
            delay_ns = _RETRANSMIT_NS + self._delay_ns(machine, end.here)
            self._world.at(self._world.now_ns + delay_ns, end.loop, self._hung_up, end)

    def _between(self, one: Machine, other: Machine) -> list[End]:
        return [end for end in self._ends if {end.here, end.there} == {one, other}]


def _answer(answered: "asyncio.Future[Listener | None]", listener: Listener | None) -> None:
    if not answered.done():
        answered.set_result(listener)


_DATA = 4  # peer_wire.FrameType.DATA


def _is_frames(data: bytes) -> bool:
    """Whether it is only frames between members that know each other: greetings and pings travel as TCP has it."""
    return data[4:5] == b"\x04"
