"""Members for the tests of the peer transport, and hand-driven ends that do what no transport would do.

`run` plays a scene on asyncio's and on uvloop's event loop. Everything opened in a scene is closed at its end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import uvloop

from plasmacloud.base.errors import PlasmaError
from plasmacloud.rpc.peer import PeerState, PeerTransport
from plasmacloud.rpc.peer_frames import FrameParser, FrameType
from plasmacloud.rpc.peer_wire import LISTENER_GREETING, Hello, Welcome, decode_hello, encode_hello, encode_welcome

CLUSTER = 0xC1
DEADLINE_S = 20.0

_to_close: list[Callable[[], Awaitable[None]]] = []


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Play the scene on both event loops. No task may outlive it, no error may reach the loop's exception handler."""
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            problems: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(lambda _loop, context, seen=problems: seen.append(context))  # type: ignore[misc]
            runner.run(_play(scene))
        assert problems == []


async def _play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            await scene()
    finally:
        while _to_close:
            await _to_close.pop()()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, as long as the test may take."""
    while not condition():
        await asyncio.sleep(0.002)


class Member:
    """A transport and what it reported."""

    def __init__(self, member_id: int, *, cluster_id: int = CLUSTER, **more: Any) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.batches: list[int] = []  # number of frames at each batch end
        self.lost: list[int] = []
        self.connected: list[int] = []
        self.fail_on: bytes | None = None
        self.transport = PeerTransport(
            cluster_id=cluster_id,
            member_id=member_id,
            on_frame=self._frame,
            on_batch_end=lambda: self.batches.append(len(self.frames)),
            on_lost=self.lost.append,
            on_connected=self.connected.append,
            **more,
        )
        self.port = 0

    def _frame(self, member_id: int, frame: bytes) -> None:
        if frame == self.fail_on:
            raise PlasmaError("no message of ours")
        self.frames.append((member_id, frame))

    async def start(self, port: int = 0, host: str = "127.0.0.1") -> "Member":
        _, self.port = await self.transport.start(host, port)
        _to_close.append(self.close)
        return self

    def knows(self, member_id: int, port: int, host: str = "127.0.0.1") -> "Member":
        self.transport.set_peer(member_id, host, port)
        return self

    def peer(self, member_id: int) -> PeerState:
        return next(p for p in self.transport.peers() if p.member_id == member_id)

    async def close(self) -> None:
        await self.transport.close()


async def pair(**more: Any) -> tuple[Member, Member]:
    """Members 1 and 2, connected both ways."""
    one, two = await Member(1, **more).start(), await Member(2, **more).start()
    one.knows(2, two.port)
    two.knows(1, one.port)
    await until(lambda: fully_connected(one, 2) and fully_connected(two, 1))
    return one, two


def fully_connected(member: Member, peer: int) -> bool:
    return member.peer(peer).connected and member.peer(peer).incoming


class Caller:
    """A hand-driven dialling end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def dial(cls, port: int) -> "Caller":
        caller = cls(*await asyncio.open_connection("127.0.0.1", port))
        _to_close.append(caller.close)
        return caller

    @classmethod
    async def greet(cls, port: int, **changes: int) -> "Caller":
        caller = await cls.dial(port)
        caller.writer.write(cls.greeting(**changes))
        return caller

    @staticmethod
    def greeting(**changes: int) -> bytes:
        return encode_hello(hello(**changes))

    @classmethod
    async def accepted(cls, port: int, **changes: int) -> "Caller":
        caller = await cls.greet(port, **changes)
        kind, _ = await caller.read_frame()
        assert kind == FrameType.WELCOME
        return caller

    async def read_frame(self) -> tuple[int, bytes]:
        header = await self.reader.readexactly(5)
        return header[4], await self.reader.readexactly(int.from_bytes(header[:4], "little"))

    async def closed_by_other_side(self) -> None:
        """Read until the end, whatever comes."""
        try:
            while await self.reader.read(65536):
                pass
        except OSError:  # a reset, or TLS cut short
            pass
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:  # a reset, or TLS cut short
            pass


def hello(**changes: int) -> Hello:
    fields = {
        "version_min": 2,
        "version_max": 2,
        "cluster_id": CLUSTER,
        "member_id": 2,
        "incarnation": 5,
        "receiver_id": 1,
    }
    return Hello(**(fields | changes), name="by hand")


class Answerer:
    """A hand-driven listening end: accepts every greeting, then keeps silent and reads only when told."""

    def __init__(self, *, welcome: bool = True) -> None:
        self.welcome = welcome
        self.greetings: list[Hello] = []
        self.callers: list[Caller] = []
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1024)
        _to_close.append(self.close)
        port = self._server.sockets[0].getsockname()[1]
        assert isinstance(port, int)
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.callers.append(Caller(reader, writer))
        parser = FrameParser(LISTENER_GREETING, magic=True)
        while data := await reader.read(100):
            for _, payload in parser.feed(data):
                greeting = decode_hello(payload)
                self.greetings.append(greeting)
                if self.welcome:
                    writer.write(encode_welcome(Welcome(2, CLUSTER, greeting.receiver_id, 9)))
                    return

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for caller in self.callers:
            await caller.close()
        await self._server.wait_closed()
