"""A record store in a dict, for tests: what the real one does, without a disk."""

from collections.abc import Iterator, Sequence

from plasmacloud.chainfire.state_machine import Checkpoint, StateMachine


class DictStore:
    """Implements ``RecordStore``; `commit` takes a checkpoint as the real store does."""

    def __init__(self) -> None:
        self.kv: dict[bytes, bytes] = {}
        self.metas: dict[str, bytes] = {}

    def get(self, key: bytes, /) -> bytes | None:
        return self.kv.get(key)

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        return [self.kv.get(key) for key in keys]

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted(pair for pair in self.kv.items() if start <= pair[0] and (end is None or pair[0] < end)))

    def meta(self, name: str, /) -> bytes | None:
        return self.metas.get(name)

    def commit(self, checkpoint: Checkpoint) -> None:
        puts = checkpoint.puts
        assert puts == sorted(puts), "records are written in the order of their ids"
        self.kv.update(puts)
        for key in checkpoint.deletes:
            del self.kv[key]  # a delete of what never was there would be a mistake
        self.metas.update(checkpoint.meta)

    def copy(self) -> "DictStore":
        other = DictStore()
        other.kv, other.metas = dict(self.kv), dict(self.metas)
        return other


def new_machine(store: DictStore | None = None, *, member_id: int = 6) -> StateMachine:
    """A machine over the store, as a member would open it."""
    return StateMachine.restore(store or DictStore(), cluster_id=5, member_id=member_id)
