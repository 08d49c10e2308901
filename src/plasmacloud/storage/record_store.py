"""What the house needs of the store that holds the applied state. `state.StateStore` is the one that there is.

The class itself is a `RecordStores`: ``stores=StateStore`` is how a caller is given it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from plasmacloud.storage.wal_format import Identity

Sealed = tuple[bytes, bytes]
"""A key, and its value with the checksum of both behind it (`pinned.seal`)."""

DEFAULT_PIN_S = 300.0


class PinnedRecords(Protocol):
    """The records and named values of one commit, held still. Read by one thread."""

    @property
    def records(self) -> int:
        """How many there are."""

    @property
    def age_s(self) -> float:
        """Seconds since it was taken."""

    def meta(self) -> Mapping[str, bytes]:
        """The named values, without the store's own marks. Raises `StorageError` when one is damaged."""

    def chunks(self, size_bytes: int) -> Iterator[list[Sealed]]:
        """All records in key order, in chunks of about ``size_bytes``. Raises `PinLost` or `StorageError`."""


class RecordStore(Protocol):
    """A table of bytes to bytes in key order, and named values, committed together. Keys have 1 to 511 bytes.

    `commit` may run on a worker thread while everything else is called on the event loop.
    """

    @property
    def path(self) -> Path:
        """Its directory."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value of a key as of the last finished commit."""

    def get_many(self, keys: Sequence[bytes], /) -> list[bytes | None]:
        """The values of the keys in their order, None for a key that does not exist; all as of one commit."""

    def scan(self, start: bytes = b"", end: bytes | None = None, /) -> Iterator[tuple[bytes, bytes]]:
        """Records with start <= key < end in key order."""

    def meta(self, name: str, /) -> bytes | None:
        """A named value as of the last finished commit."""

    def size_bytes(self) -> int:
        """Disk space allocated."""

    def in_use_bytes(self) -> int:
        """Disk space that holds data."""

    def pin(self, *, max_age_s: float = DEFAULT_PIN_S) -> AbstractContextManager[PinnedRecords]:
        """Hold the state of the last finished commit still, to read all of it while commits go on. Any thread."""

    def commit(self, puts: Sequence[tuple[bytes, bytes]], deletes: Sequence[bytes], meta: Mapping[str, bytes]) -> None:
        """Apply everything in one transaction: deletes, then puts, then meta. Durable when it returns. Blocks.

        Raises `DiskFull`, after which nothing has changed, or `WriteFailed`, after which nothing is known.
        """

    def close(self) -> None:
        """Let go of it after a running commit ended; idempotent."""


class RecordStores(Protocol):
    """Makes and opens stores. Blocks."""

    def open(self, path: Path, *, identity: Identity | None = None) -> RecordStore:
        """Create or open the store in the directory ``path``, bound to that member. Raises `StorageError`."""

    def build(
        self, path: Path, chunks: Iterable[Sequence[Sealed]], meta: Mapping[str, bytes], *, identity: Identity
    ) -> None:
        """Fill a new store with records that come in key order, sealed, and close it; all durable on return.

        The named values come last. Raises `StorageError`, and whatever ``chunks`` raises.
        """
