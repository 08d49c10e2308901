"""Sending a snapshot to a member that is too far behind for the log: both sides as state machines.

Nothing here reads a clock, a socket or a disk by itself: time is an argument (seconds of any monotonic clock), frames
go in and come out, the sender reads pieces of the file through a function, the receiver writes into an `Incoming`.

**The sender** offers the snapshot until it is asked for pieces, and then sends what was asked for and no more: the
receiver's window bounds what is under way, a token bucket bounds the rate, and at most one piece at a time is in
memory. It gives up when the receiver was silent for too long.

**The receiver** decides where to go on: from the byte up to which it has everything, whatever the connection, this
process or the sender has been through in between. It asks for more as it takes pieces in, and again from its position
when pieces went missing. When it has all, somebody else verifies the file (that takes a while, on a worker thread) and
tells it the result; a file that arrived but is not what was offered is fetched once more from the beginning.

Losing a frame, a connection or either process costs time, never the transfer; and every transfer ends: with DONE, or
with a reason.
"""

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.snapshot_frames import (
    MAX_CHUNK_BYTES,
    Abort,
    Chunk,
    Done,
    Frame,
    Offer,
    Request,
)


class TransferConfig(msgspec.Struct, frozen=True):
    """Sizes in bytes, times in seconds. ``rate_bytes_s`` 0: as fast as it goes."""

    chunk_bytes: int = 64 * 1024
    window_bytes: int = 1024 * 1024
    rate_bytes_s: float = 0.0
    burst_bytes: int = 1024 * 1024
    repeat_s: float = 1.0  # unanswered offers and requests are repeated
    silence_s: float = 30.0  # then the other side is given up
    attempts: int = 2  # how often a complete file may turn out not to be what was offered


class TransferState(Enum):
    """Where either side is."""

    IDLE = "idle"  # receiver: nothing offered yet, or the last one is over
    OFFERING = "offering"
    MOVING = "moving"
    VERIFYING = "verifying"
    DONE = "done"
    ABORTED = "aborted"


class TokenBucket:
    """So many bytes a second on average, and at most a burst at once. Debt is allowed: a piece goes whole."""

    def __init__(self, rate_bytes_s: float, burst_bytes: int, now: float) -> None:
        self._rate = rate_bytes_s
        self._burst = burst_bytes
        self._level = float(burst_bytes)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Seconds until something may be taken; 0: now."""
        if not self._rate:
            return 0.0
        self._level = min(self._burst, self._level + max(now - self._at, 0.0) * self._rate)
        self._at = max(now, self._at)
        return 0.0 if self._level > 0 else -self._level / self._rate + 1e-6

    def take(self, size_bytes: int) -> None:
        """Something was sent."""
        if self._rate:
            self._level -= size_bytes


class Sender:
    """One transfer to one member. `poll` whenever something came in, or `wake_at` has come."""

    def __init__(
        self, offer: Offer, read: Callable[[int, int], bytes], now: float, config: TransferConfig | None = None
    ) -> None:
        """``read(offset, size)`` returns that many bytes of the file; it may raise `StorageError`."""
        self.offer = offer
        self.state = TransferState.OFFERING
        self.reason = ""
        self.acknowledged = 0  # the receiver has everything before
        self.config = config or TransferConfig()
        assert 0 < self.config.chunk_bytes <= MAX_CHUNK_BYTES
        self._read = read
        self._bucket = TokenBucket(self.config.rate_bytes_s, self.config.burst_bytes, now)
        self._next = 0
        self._limit = 0
        self._heard_at = now
        self._offer_at = now

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in (TransferState.DONE, TransferState.ABORTED)

    @property
    def percent(self) -> int:
        """How much has been sent."""
        return 100 * self._next // max(self.offer.size_bytes, 1)

    def on_frame(self, frame: Frame, now: float) -> None:
        """The receiver says something. Frames of other transfers are ignored."""
        if self.over or isinstance(frame, Offer | Chunk) or frame.transfer != self.offer.transfer:
            return
        self._heard_at = now
        if isinstance(frame, Done):
            self.state, self.acknowledged = TransferState.DONE, self.offer.size_bytes
        elif isinstance(frame, Abort):
            self._end(frame.reason)
        elif frame.offset > self.offer.size_bytes:
            self._end(f"the receiver asked for byte {frame.offset} of {self.offer.size_bytes}")
        else:
            self._requested(frame)

    def connected(self, now: float) -> None:
        """There is a new connection: what was under way is lost. The receiver is asked where to go on."""
        if not self.over:
            self.state = TransferState.OFFERING
            self._limit = self._next
            self._offer_at = now

    def poll(self, now: float, send: Callable[[Frame], bool]) -> None:
        """Send what may be sent now. ``send`` returns False when the frame cannot leave; the rest waits."""
        if self.over:
            return
        if now - self._heard_at >= self.config.silence_s:
            self._end(f"the receiver was silent for {format_duration(self.config.silence_s)}")
            send(Abort(self.offer.transfer, self.reason))
            return
        if self.state is TransferState.MOVING and now - self._heard_at >= self._patience_s:
            self.connected(now)  # perhaps the receiver was started anew and knows of nothing
        if self.state is TransferState.MOVING:
            self._send_pieces(now, send)
        elif now >= self._offer_at:
            self._offer_at = now + self.config.repeat_s
            send(self.offer)

    def wake_at(self, now: float) -> float:
        """When `poll` has something to do although nothing came in; infinity: never."""
        if self.over:
            return float("inf")
        deadline = self._heard_at + self.config.silence_s
        if self.state is TransferState.OFFERING:
            return min(deadline, self._offer_at)
        deadline = min(deadline, self._heard_at + self._patience_s)
        return min(deadline, now + self._bucket.wait_s(now)) if self._next < self._limit else deadline

    def abort(self, reason: str) -> Abort:
        """Stop; the frame tells the receiver."""
        self._end(reason)
        return Abort(self.offer.transfer, self.reason)

    @property
    def _patience_s(self) -> float:
        return self.config.silence_s / 4

    def _requested(self, frame: Request) -> None:
        if self.state is TransferState.OFFERING or frame.again:
            self._next = frame.offset
        elif frame.offset > self._next:
            return  # from before a repetition
        self.state = TransferState.MOVING
        self.acknowledged = frame.offset
        window_bytes = min(frame.window_bytes, self.config.window_bytes)
        self._limit = max(self._next, min(frame.offset + window_bytes, self.offer.size_bytes))

    def _send_pieces(self, now: float, send: Callable[[Frame], bool]) -> None:
        while self._next < self._limit and self._bucket.wait_s(now) == 0.0:
            size_bytes = min(self.config.chunk_bytes, self._limit - self._next)
            try:
                data = self._read(self._next, size_bytes)
            except StorageError as error:
                send(self.abort(f"the snapshot cannot be read: {error}"))
                return
            if len(data) != size_bytes:
                send(self.abort("the snapshot became shorter while it was sent"))
                return
            if not send(Chunk(self.offer.transfer, self._next, data)):
                return
            self._bucket.take(size_bytes)
            self._next += size_bytes

    def _end(self, reason: str) -> None:
        self.state, self.reason = TransferState.ABORTED, reason


class Incoming(Protocol):
    """Where the pieces go: `storage.incoming.IncomingFile`."""

    position: int

    def begin(self, sha256: bytes, size_bytes: int) -> int: ...

    def write(self, data: bytes) -> None: ...


class Receiver:
    """All transfers to this member, one at a time. Frames to send come back from each call."""

    def __init__(self, incoming: Incoming, config: TransferConfig | None = None) -> None:
        self.state = TransferState.IDLE
        self.reason = ""
        self.sender = 0  # the member that sends
        self.offer: Offer | None = None
        self.config = config or TransferConfig()
        self._incoming = incoming
        self._heard_at = 0.0
        self._repeat_at = 0.0
        self._repeat_s = self.config.repeat_s  # grows on a link that is slower than that
        self._requested = 0  # the end of the window asked for
        self._gap = False  # asked again already for what is missing
        self._attempts = 0

    @property
    def received_bytes(self) -> int:
        """How much of the offer is here."""
        return self._incoming.position if self.offer is not None else 0

    def on_frame(self, sender: int, frame: Frame, now: float) -> list[Frame]:
        """A member says something; the answers go to that member."""
        if isinstance(frame, Offer):
            return self._offered(sender, frame, now)
        if self.offer is None or sender != self.sender or frame.transfer != self.offer.transfer:
            return []  # from before a restart, or of a sender that will hear from us no more and give up
        if isinstance(frame, Abort):
            if self.state is TransferState.MOVING:  # behind that everything is here, whoever leads now
                self._end(f"the sender gave up: {frame.reason}")
        elif isinstance(frame, Chunk) and self.state is TransferState.MOVING:
            self._heard_at = now
            return self._take(frame, now)
        return []

    def poll(self, now: float) -> list[Frame]:
        """Time has passed: repeat a request, or give up. The frames go to `sender`."""
        if self.state not in (TransferState.MOVING, TransferState.VERIFYING):
            return []
        assert self.offer is not None
        if self.state is TransferState.MOVING and now - self._heard_at >= self.config.silence_s:
            transfer = self.offer.transfer
            self._end(f"the sender was silent for {format_duration(self.config.silence_s)}")
            return [Abort(transfer, self.reason)]
        if now < self._repeat_at:
            return []
        if self.state is TransferState.MOVING:
            self._repeat_s = min(2 * self._repeat_s, self.config.silence_s / 4)
        return [self._ask(now, again=True)]

    def wake_at(self) -> float:
        """When `poll` has something to do; infinity: never."""
        if self.state is TransferState.MOVING:
            return min(self._repeat_at, self._heard_at + self.config.silence_s)
        return self._repeat_at if self.state is TransferState.VERIFYING else float("inf")

    def verified(self, problem: str, now: float) -> list[Frame]:
        """The complete file was checked; ``problem`` is empty when it is what was offered.

        With a problem the incoming file has been discarded, and is fetched again while attempts are left.
        """
        assert self.state is TransferState.VERIFYING
        assert self.offer is not None
        if not problem:
            self.state = TransferState.DONE
            return [Done(self.offer.transfer)]
        self._attempts += 1
        if self._attempts >= self.config.attempts:
            return self._refuse(f"what arrived is not what was offered: {problem}")
        return self._begin(now)

    def _offered(self, sender: int, offer: Offer, now: float) -> list[Frame]:
        known = self.offer
        if offer == known and self.state is TransferState.DONE:
            self.sender = sender
            return [Done(offer.transfer)]
        if known is not None and self.state in (TransferState.MOVING, TransferState.VERIFYING):
            if offer != known and (self.state is TransferState.VERIFYING or (offer.term, offer.index) < self._rank()):
                return [Abort(offer.transfer, "another snapshot is being received")]
            if offer == known and sender == self.sender and self.state is TransferState.VERIFYING:
                return [self._ask(now, again=True)]
        if offer != known:
            self._attempts = 0
        self.sender, self.offer = sender, offer
        if self.state is TransferState.VERIFYING:
            return [self._ask(now, again=True)]
        return self._begin(now)

    def _rank(self) -> tuple[int, int]:
        assert self.offer is not None
        return self.offer.term, self.offer.index

    def _begin(self, now: float) -> list[Frame]:
        """Go on with the offer from wherever the incoming file is."""
        assert self.offer is not None
        self._heard_at = now
        self._repeat_s = self.config.repeat_s
        self._gap = False
        try:
            self._incoming.begin(self.offer.sha256, self.offer.size_bytes)
        except StorageError as error:
            return self._refuse(str(error))
        if self._incoming.position > self.offer.size_bytes:
            return self._refuse("more is here than was offered")
        self.state, self.reason = TransferState.MOVING, ""
        return self._complete_or_ask(now, again=True)

    def _take(self, chunk: Chunk, now: float) -> list[Frame]:
        assert self.offer is not None
        position = self._incoming.position
        if chunk.offset != position or chunk.offset + len(chunk.data) > self.offer.size_bytes:
            if chunk.offset > position and not self._gap:
                self._gap = True
                return [self._ask(now, again=True)]
            return []  # sent twice
        self._gap = False
        self._repeat_at = now + self._repeat_s
        try:
            self._incoming.write(chunk.data)
        except StorageError as error:
            return self._refuse(str(error))
        if self._incoming.position == self.offer.size_bytes:
            return self._complete_or_ask(now, again=False)
        if self._requested - self._incoming.position <= self.config.window_bytes // 2:
            return [self._ask(now, again=False)]
        return []

    def _complete_or_ask(self, now: float, *, again: bool) -> list[Frame]:
        assert self.offer is not None
        if self._incoming.position == self.offer.size_bytes:
            self.state = TransferState.VERIFYING
        return [self._ask(now, again=again)]

    def _ask(self, now: float, *, again: bool) -> Request:
        """In the verifying phase this says nothing but "still here"."""
        assert self.offer is not None
        self._repeat_at = now + self._repeat_s
        at = self.received_bytes if self.state is TransferState.MOVING else self.offer.size_bytes
        self._requested = at + self.config.window_bytes
        return Request(self.offer.transfer, at, self.config.window_bytes, again)

    def _refuse(self, reason: str) -> list[Frame]:
        assert self.offer is not None
        transfer = self.offer.transfer
        self._end(reason)
        return [Abort(transfer, reason)]

    def _end(self, reason: str) -> None:
        """The transfer is over. What has arrived stays, for the next offer of the same snapshot."""
        self.state, self.reason, self.offer = TransferState.ABORTED, reason, None
