"""Requests about many keys at once, and what must be true of their answers whatever else happens.

*Together.* A transaction writes all keys of a group with one value, a delete removes all of them, a read reads all of
them. So they are there all together, with one value of one revision, or not at all: whoever sees anything else has seen
half a request. To the checker of linearizability the group is one register.

*The past does not change.* What the whole store held as of a revision is remembered when it is read for the first time.
Whoever reads that revision later, at whatever member, has to see the same, or be told that it was compacted.
"""

from collections.abc import Sequence

from plasmacloud.chainfire.mvcc.refusals import COMPACTED
from plasmacloud.rpc.proto import kv_pb2, rpc_pb2
from plasmacloud.sim.violation import Violation

TOGETHER = "together"
"""The group's name in the history."""
START, END = b"a", b"z"
"""Every key of the workload lies in between."""
_GROUP_START, _GROUP_END = b"m", b"n"
_KEPT_REVISIONS = 40


def write_together(keys: int, value: str) -> bytes:
    """The body of a transaction that writes the group."""
    puts = [rpc_pb2.PutRequest(key=b"m%d" % number, value=value.encode()) for number in range(keys)]
    return rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]).SerializeToString()


def delete_together() -> bytes:
    """The body of a request that deletes the group."""
    return rpc_pb2.DeleteRangeRequest(key=_GROUP_START, range_end=_GROUP_END).SerializeToString()


def read_together() -> rpc_pb2.RangeRequest:
    """A request that reads the group."""
    return rpc_pb2.RangeRequest(key=_GROUP_START, range_end=_GROUP_END)


def check_deleted(keys: int, deleted: int) -> None:
    """Raises `Violation`."""
    if deleted not in (0, keys):
        raise Violation("requests are atomic", f"of a group of {keys} keys {deleted} were deleted")


def seen_together(keys: int, kvs: Sequence[kv_pb2.KeyValue]) -> tuple[str, int] | None:
    """The value of the group and its revision; None when it is not there. Raises `Violation`."""
    seen = {(kv.value.decode(), kv.mod_revision) for kv in kvs}
    if len(kvs) not in (0, keys) or len(seen) > 1:
        raise Violation(
            "requests are atomic", f"of a group of {keys} keys {len(kvs)} are there, with {len(seen)} values"
        )
    return next(iter(seen), None)


class Past:
    """What the store held as of the revisions that were read. ``compacted``: the highest one anybody asked for;
    ``surely_compacted``: was told to be done.
    """

    def __init__(self) -> None:
        self.compacted = self.surely_compacted = 0
        self._states: dict[int, tuple[tuple[bytes, bytes, int, int, int], ...]] = {}

    @property
    def revisions(self) -> Sequence[int]:
        """Those that are remembered."""
        return tuple(self._states)

    def saw(self, revision: int, reply: rpc_pb2.RangeResponse) -> None:
        """Somebody has read everything as of a revision. Raises `Violation`."""
        state = tuple((kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in reply.kvs)
        for key, _, create, mod, version in state:
            if not 1 < create <= mod <= revision or not 1 <= version <= mod - create + 1:
                raise Violation(
                    "the past does not change",
                    f"as of {revision} {key!r} was created at {create}, changed at {mod}, and has version {version}",
                )
        known = self._states.setdefault(revision, state)
        if known != state:
            different = sorted({item[0] for item in {*known} ^ {*state}})
            raise Violation("the past does not change", f"as of revision {revision} these keys differ: {different}")
        if len(self._states) > _KEPT_REVISIONS:
            del self._states[min(self._states)]

    def refused(self, revision: int, problem: str) -> None:
        """Somebody was told that a revision cannot be read. Raises `Violation`."""
        if problem == COMPACTED.message and revision >= self.compacted:
            raise Violation(
                "the past does not change",
                f"revision {revision} is said to be compacted, but nobody asked for more than {self.compacted}",
            )
