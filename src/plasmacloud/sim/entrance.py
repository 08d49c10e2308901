"""Who is let in, and when the first word is said (`chainfire.peer_memory`, `rpc.peer_door`).

That a member which has lost its memory is kept out shows only where such a member meets somebody who alone knows
better, in the right moment. So the door itself is looked at: whom it lets in is remembered on the disk by then, and
nobody is told anything before everybody within reach has given its verdict.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from plasmacloud.chainfire.peer_memory import UNKNOWN, DamagedMemory, PeerMemory, PeerRegister
from plasmacloud.rpc.peer_wire import PeerClaim, Refusal
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.violation import Violation

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember

_MOMENT_S = 1e-6


class WatchedRegister(PeerRegister):
    """Tells whom it lets in, when it does."""

    on_admitted: Callable[[PeerClaim], None] | None = None

    def judge(self, claim: PeerClaim) -> "Refusal | asyncio.Future[None] | None":
        verdict = super().judge(claim)
        if verdict is None:
            self._admitted(claim)
        elif not isinstance(verdict, Refusal):
            verdict.add_done_callback(partial(self._remembered, claim))  # before those of the door
        return verdict

    def _remembered(self, claim: PeerClaim, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and done.exception() is None:
            self._admitted(claim)

    def _admitted(self, claim: PeerClaim) -> None:
        if self.on_admitted is not None:
            self.on_admitted(claim)


def check_remembered(member: "RunningMember", claim: PeerClaim) -> None:
    """A life of another member is let in: this one's disk knows of it."""
    disk = member.environment.disk
    assert isinstance(disk, SimDisk)
    known = UNKNOWN
    try:
        memory = PeerMemory.decode(disk.surely(member.data.peers) or b"", member.config.cluster.cluster_id)
        known = memory.known(claim.member_id)
    except DamagedMemory:
        pass
    if known.birth != claim.birth or known.incarnation < claim.incarnation:
        raise Violation(
            "who is let in is remembered",
            f"{member.raft.id:x} lets in life {claim.incarnation} of {claim.member_id:x}, and its disk knows of "
            f"{known.incarnation}",
        )


class Verdicts:
    """Of one life: which of the members that were known at its start have given their verdict, or are out of reach."""

    def __init__(self, peers: dict[int, object], now_s: float, settle_s: float) -> None:
        self._awaited = dict(peers)
        self._until_s = now_s + settle_s - _MOMENT_S

    def heard(self, member_id: int) -> None:
        """A member has answered, or cannot be reached."""
        self._awaited.pop(member_id, None)

    def missing(self, peers: dict[int, object], now_s: float) -> list[int]:
        """Who has still to be waited for. ``peers``: who is known now; who was replaced there is waited for no more."""
        if now_s >= self._until_s:
            return []
        return sorted(member_id for member_id, peer in self._awaited.items() if peers.get(member_id) is peer)
