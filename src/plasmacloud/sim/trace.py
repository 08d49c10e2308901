"""What happened, as a hash and as the last words before a failure.

Two runs of one seed are the same run exactly if their hashes are equal. Everything that one process learns from
outside goes into it (what arrived when, which work was finished), and everything of substance that a member became.
"""

import hashlib
from collections import deque
from collections.abc import Iterable
from struct import Struct

from plasmacloud.base.checksum import crc32
from plasmacloud.sim.clock import NS_PER_S, World

_EVENT = Struct("<QBII")
_FLUSH_BYTES = 1 << 16
_LAST_EVENTS = 60
_NETWORK, _NOTE = 1, 2


class Trace:
    """One run's. ``counts``: how often each kind of event happened."""

    def __init__(self, world: World) -> None:
        self.counts: dict[str, int] = {}
        self.notes: deque[tuple[int, str, str]] = deque(maxlen=_LAST_EVENTS)
        self._world = world
        self._hash = hashlib.blake2b(digest_size=16)
        self._buffer = bytearray()
        self._names: dict[tuple[str, str], int] = {}

    def received(self, here: str, there: str, data: bytes) -> None:
        """Bytes arrived at a process."""
        names = self._names
        pair = names.get((here, there))
        if pair is None:
            pair = names[here, there] = crc32(f"{here} {there}".encode())
        self._add(_NETWORK, pair, crc32(data))

    def note(self, who: str, what: str) -> None:
        """Something a reader of the trace wants to know."""
        self.notes.append((self._world.now_ns, who, what))
        self._add(_NOTE, crc32(who.encode()), crc32(what.encode()))

    def count(self, kind: str, times: int = 1) -> None:
        """Something countable."""
        self.counts[kind] = self.counts.get(kind, 0) + times

    def _add(self, kind: int, first: int, second: int) -> None:
        buffer = self._buffer
        buffer += _EVENT.pack(self._world.now_ns, kind, first, second)
        if len(buffer) >= _FLUSH_BYTES:
            self._hash.update(buffer)
            buffer.clear()

    def digest(self) -> str:
        """The hash so far."""
        self._hash.update(self._buffer)
        self._buffer.clear()
        return self._hash.hexdigest()

    def last_words(self) -> Iterable[str]:
        """The last notes, oldest first."""
        for time_ns, who, what in self.notes:
            yield f"{time_ns / NS_PER_S:12.6f} s  {who:<8} {what}"
