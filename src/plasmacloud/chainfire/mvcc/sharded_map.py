"""A mapping from keys to bytes that never stops the event loop to grow.

A dict of five million keys takes a quarter of a second to move into its next larger table, all in one insertion, and on
all members at the same entry of the log. Many small dicts move one after the other, a millisecond each.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

V = TypeVar("V")

_SHARDS = 256
SHARD_MASK = _SHARDS - 1


class ShardedMap(Generic[V]):
    """Keys to values. Iteration has no order.

    ``shards[hash(key) & SHARD_MASK]`` is the dict that a key is in, for who looks at one key several times.
    """

    __slots__ = ("shards",)

    def __init__(self) -> None:
        self.shards: list[dict[bytes, V]] = [{} for _ in range(_SHARDS)]

    def get(self, key: bytes) -> V | None:
        """The value of a key; None: it has none."""
        return self.shards[hash(key) & SHARD_MASK].get(key)

    def __getitem__(self, key: bytes) -> V:
        return self.shards[hash(key) & SHARD_MASK][key]

    def __setitem__(self, key: bytes, value: V) -> None:
        self.shards[hash(key) & SHARD_MASK][key] = value

    def pop(self, key: bytes) -> V | None:
        """Remove a key; returns the value that it had, if any."""
        return self.shards[hash(key) & SHARD_MASK].pop(key, None)

    def __contains__(self, key: object) -> bool:
        return key in self.shards[hash(key) & SHARD_MASK]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def __iter__(self) -> Iterator[bytes]:
        for shard in self.shards:
            yield from shard

    def values(self) -> Iterator[V]:
        """All values, in the order of `__iter__`."""
        for shard in self.shards:
            yield from shard.values()
