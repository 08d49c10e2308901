"""What a replica needs of the transport between members. `peer.PeerTransport` is the one over TCP."""

from collections.abc import Callable, Sequence
from typing import Protocol

from plasmacloud.rpc.peer_door import Judge
from plasmacloud.rpc.peer_options import PeerState
from plasmacloud.rpc.peer_wire import Refusal


class Transport(Protocol):
    """Frames to and from the other members; what the callbacks mean is said in `peer.PeerTransport`."""

    on_round_trip: Callable[[int, float, float], None] | None

    @property
    def keepalive_s(self) -> float:
        """How often each member is asked for a sign of life, in seconds."""

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and dial the peers known so far. Returns the address in use. Raises `ConfigError`."""

    async def close(self) -> None:
        """Stop, close everything. No callback comes."""

    def set_peer(self, member_id: int, host: str, port: int) -> None:
        """Add a peer, or change its address."""

    def remove_peer(self, member_id: int) -> None:
        """Forget a member: end its connections without a report, refuse its calls until `set_peer` names it again."""

    def peers(self) -> Sequence[PeerState]:
        """The peers that were set, by member id."""

    def is_connected(self, member_id: int) -> bool:
        """Whether our connection to the member stands, so that `send` works."""

    def send(self, member_id: int, frame: bytes) -> bool:
        """Queue a frame. False, and the frame is dropped, when there is no connection or its buffer is full."""

    def flush(self) -> None:
        """Write out now what is queued."""


class TransportFactory(Protocol):
    """Makes the transport of one life of one member, on the running event loop."""

    def __call__(
        self,
        *,
        cluster_id: int,
        member_id: int,
        name: str,
        birth: int,
        incarnation: int,
        earlier: tuple[int, ...],
        address: str,
        judge: Judge,
        on_refused: Callable[[int, Refusal], None],
        on_stranger: Callable[[int, str], None],
        on_frame: Callable[[int, bytes], None],
        on_batch_end: Callable[[], None],
        on_lost: Callable[[int], None],
        on_connected: Callable[[int], None],
    ) -> Transport: ...
