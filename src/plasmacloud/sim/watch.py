"""The transport of a simulated member: the real one, and somebody who listens to what the member says."""

import random
import struct
from collections.abc import Callable
from typing import Any

from plasmacloud.raft.messages import MessageType
from plasmacloud.rpc.peer import PeerOptions, PeerTransport
from plasmacloud.sim.observer import Observer, Violation

_HEADER = struct.Struct("<BBBQQQQQ")  # frame kind, message type, flags, to, sender, term, log_term, index
_REJECT = 1
_HEARD = frozenset(
    {
        MessageType.VOTE,
        MessageType.VOTE_RESPONSE,
        MessageType.PRE_VOTE_RESPONSE,
        MessageType.APPEND,
        MessageType.APPEND_RESPONSE,
        MessageType.HEARTBEAT,
        MessageType.TIMEOUT_NOW,
    }
)
_PROMISES = frozenset({MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE})


class WatchedTransport(PeerTransport):
    """Reports votes, acknowledgements and terms to the observer as they leave."""

    observer: Observer
    fail: Callable[[Violation], None]

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
                observer.acknowledged(sender, term, index, to)
        elif kind == MessageType.VOTE:
            observer.stood(sender, term)
            return  # no promise: the term may not be durable yet
        elif kind == MessageType.TIMEOUT_NOW:
            observer.told_to_stand(to, term)
            return
        if granted:
            observer.promised(sender, term)


def watched_transport(
    observer: Observer,
    fail: Callable[[Violation], None],
    options: PeerOptions,
    rng: random.Random,
    clock_ns: Callable[[], int],
    **arguments: Any,
) -> WatchedTransport:
    """For the environment of a member."""
    transport = WatchedTransport(options=options, rng=rng, clock_ns=clock_ns, **arguments)
    transport.observer, transport.fail = observer, fail
    return transport
