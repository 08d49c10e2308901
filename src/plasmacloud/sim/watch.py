"""The transport of a simulated member: the real one, and somebody who listens to what the member says."""

import random
import struct
from collections.abc import Callable
from typing import Any

from plasmacloud.raft.messages import MessageType
from plasmacloud.rpc.peer import PeerOptions, PeerTransport
from plasmacloud.sim.observer import Observer

_HEADER = struct.Struct("<BBBQQQQQ")  # frame kind, message type, flags, to, sender, term, log_term, index
_REJECT = 1
_HEARD = frozenset({MessageType.VOTE_RESPONSE, MessageType.APPEND_RESPONSE, MessageType.APPEND, MessageType.HEARTBEAT})


class WatchedTransport(PeerTransport):
    """Reports votes, acknowledgements and terms to the observer as they leave."""

    observer: Observer

    def send(self, member_id: int, frame: bytes) -> bool:
        if not frame[0] and frame[1] in _HEARD:
            _, kind, flags, to, sender, term, _, index = _HEADER.unpack_from(frame)
            observer = self.observer
            if kind == MessageType.VOTE_RESPONSE:
                if not flags & _REJECT:
                    observer.voted(sender, term, to)
                    observer.promised(sender, term)
            elif kind == MessageType.APPEND_RESPONSE:
                if not flags & _REJECT:
                    observer.acknowledged(sender, term, index)
                    observer.promised(sender, term)
            else:
                observer.promised(sender, term)
        return super().send(member_id, frame)


def watched_transport(
    observer: Observer, options: PeerOptions, rng: random.Random, clock_ns: Callable[[], int], **arguments: Any
) -> WatchedTransport:
    """For the environment of a member."""
    transport = WatchedTransport(options=options, rng=rng, clock_ns=clock_ns, **arguments)
    transport.observer = observer
    return transport
