"""The dumbest possible multi-version store: a list with a complete copy of the key space for every revision.

It knows puts, deletes and reads, and nothing of how the real store keeps them.
"""

from typing import NamedTuple

from plasmacloud.rpc.proto import kv_pb2
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest, RangeResponse


class Version(NamedTuple):
    create: int
    mod: int
    version: int
    value: bytes


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    if not end:
        return key == start
    return key >= start and (end == b"\0" or key < end)


class Oracle:
    """``states[r]`` is what revision r looks like."""

    def __init__(self) -> None:
        self.states: list[dict[bytes, Version]] = [{}, {}]
        self.compacted = -1

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def put(self, key: bytes, value: bytes) -> None:
        new = dict(self.states[-1])
        old = new.get(key)
        mod = self.revision + 1
        new[key] = Version(old.create, mod, old.version + 1, value) if old else Version(mod, mod, 1, value)
        self.states.append(new)

    def delete(self, start: bytes, end: bytes) -> int:
        new = {key: version for key, version in self.states[-1].items() if not in_range(key, start, end)}
        deleted = len(self.states[-1]) - len(new)
        if deleted:
            self.states.append(new)
        return deleted

    def range(self, request: RangeRequest) -> RangeResponse | str:
        """The reply without header, or the end of the refusal's text. No filters, sorting by key only."""
        revision = request.revision if request.revision > 0 else self.revision
        if revision > self.revision:
            return "future revision"
        if revision < self.compacted:
            return "compacted"
        state = self.states[revision]
        keys = sorted(key for key in state if in_range(key, request.key, request.range_end))
        reply = RangeResponse(count=len(keys))
        if request.count_only:
            return reply
        if request.sort_order == RangeRequest.DESCEND:
            keys.reverse()
        if 0 < request.limit < len(keys):
            keys = keys[: request.limit]
            reply.more = True
        for key in keys:
            create, mod, version, value = state[key]
            if request.keys_only:
                value = b""
            kv = kv_pb2.KeyValue(key=key, create_revision=create, mod_revision=mod, version=version, value=value)
            reply.kvs.append(kv)
        return reply
