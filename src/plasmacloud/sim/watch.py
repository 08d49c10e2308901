"""The transport of a simulated member: the real one, and somebody who listens to what the member says."""

import random
import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from plasmacloud.raft.messages import MessageType
from plasmacloud.rpc.peer import PeerOptions, PeerTransport
from plasmacloud.rpc.peer_link import OutgoingLink, PeerLink
from plasmacloud.rpc.peer_wire import Refusal, Welcome
from plasmacloud.sim.authority import Authority
from plasmacloud.sim.entrance import Verdicts
from plasmacloud.sim.observer import Observer
from plasmacloud.sim.violation import Violation

_HEADER = struct.Struct("<BBBQQQQQ")  # frame kind, message type, flags, to, sender, term, log_term, index
_CONTEXT = struct.Struct("<Q")
_CONTEXT_AT = _HEADER.size + 24  # behind commit, hint_index and hint_term
_REJECT = 1
_HEARD = frozenset(
    {
        MessageType.VOTE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.APPEND,
        MessageType.APPEND_RESPONSE,
        MessageType.HEARTBEAT,
        MessageType.HEARTBEAT_RESPONSE,
        MessageType.READ_INDEX,
        MessageType.READ_INDEX_RESPONSE,
        MessageType.TIMEOUT_NOW,
    }
)
_ANSWERS = frozenset({MessageType.APPEND_RESPONSE, MessageType.HEARTBEAT_RESPONSE})
_PROMISES = frozenset({MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE})


class WatchedTransport(PeerTransport):
    """Reports votes, acknowledgements, terms and reads as they leave, and answers as they arrive."""

    observer: Observer
    authority: Authority
    fail: Callable[[Violation], None]
    verdicts: Verdicts | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        address = await super().start(host, port)
        assert self._loop is not None
        self.verdicts = Verdicts(dict(self._peers), self._loop.time(), self.options.settle_s)
        return address

    def _judged_by(self, member_id: int) -> None:
        if self.verdicts is not None:
            self.verdicts.heard(member_id)

    def link_welcomed(self, link: OutgoingLink, welcome: Welcome) -> None:
        self._judged_by(link.member_id)
        super().link_welcomed(link, welcome)

    def link_refused(self, link: PeerLink, refusal: Refusal) -> None:
        self._judged_by(link.member_id)
        super().link_refused(link, refusal)

    def _note_error(self, peer: Any, text: str, *, refusal: bool = False) -> None:
        self._judged_by(peer.member_id)
        super()._note_error(peer, text, refusal=refusal)

    def _opened(self, link: PeerLink) -> None:
        if self.verdicts is not None and self._loop is not None and self._running:
            missing = self.verdicts.missing(dict(self._peers), self._loop.time())
            if missing:
                awaited = ", ".join(f"{member_id:x}" for member_id in missing)
                self.fail(
                    Violation(
                        "nobody speaks before all have judged",
                        f"{self._identity.member_id:x} talks with {link.member_id:x}, and does not know yet what "
                        f"{awaited} think of it",
                    )
                )
        super()._opened(link)

    def send(self, member_id: int, frame: bytes) -> bool:
        heard = not frame[0] and frame[1] in _HEARD
        try:
            if heard:
                self._listen(frame)
            sent = super().send(member_id, frame)
            if sent and heard and frame[1] in _PROMISES and not frame[2] & _REJECT:
                self.observer.took_part(_HEADER.unpack_from(frame)[4])
        except Violation as violation:  # the member must not be told that it did wrong
            self.fail(violation)
            return False
        return sent

    def _listen(self, frame: bytes) -> None:
        _, kind, flags, to, sender, term, _, index = _HEADER.unpack_from(frame)
        observer, granted = self.observer, not flags & _REJECT
        if kind == MessageType.PRE_VOTE_RESPONSE:
            if granted:
                observer.pre_voted(sender, term, to)
            return
        if kind == MessageType.VOTE_RESPONSE:
            if granted:
                observer.voted(sender, term, to)
        elif kind == MessageType.APPEND_RESPONSE:
            if granted:
                observer.acknowledged(sender, term, index, to, self)
        elif kind == MessageType.VOTE:
            observer.stood(sender, term, index, self)
            return  # no promise: the term may not be durable yet
        elif kind == MessageType.TIMEOUT_NOW:
            observer.told_to_stand(to, term, index)
            return
        elif kind == MessageType.APPEND:
            self.authority.sent(sender, to, term)
        elif kind == MessageType.HEARTBEAT:
            self.authority.beat(sender, term, _context(frame))
        elif kind == MessageType.READ_INDEX:
            self.authority.asked(sender, _context(frame))
            return
        elif kind == MessageType.READ_INDEX_RESPONSE:
            self.authority.answered(sender, term, to, _context(frame), index)
            return
        if granted:
            observer.promised(sender, term, self)


def _context(frame: bytes) -> int:
    context: int
    (context,) = _CONTEXT.unpack_from(frame, _CONTEXT_AT)
    return context


def _listening(
    authority: Authority, on_frame: Callable[[int, bytes], None], here: int, sender: int, frame: bytes
) -> None:
    if not frame[0] and frame[1] in _ANSWERS:  # who refuses entries is there, too
        term = _HEADER.unpack_from(frame)[5]
        authority.arrived(frame[1], here, sender, term, _context(frame))
    on_frame(sender, frame)


def watched_transport(
    observer: Observer,
    authority: Authority,
    fail: Callable[[Violation], None],
    options: PeerOptions,
    rng: random.Random,
    clock_ns: Callable[[], int],
    **arguments: Any,
) -> WatchedTransport:
    """For the environment of a member."""
    arguments["on_frame"] = partial(_listening, authority, arguments["on_frame"], arguments["member_id"])
    transport = WatchedTransport(options=options, rng=rng, clock_ns=clock_ns, **arguments)
    transport.observer, transport.authority, transport.fail = observer, authority, fail
    return transport
