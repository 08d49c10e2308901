"""Snapshots: the applied state at one index as one file, to be kept, sent, checked and turned into a store again.

A snapshot is read from one pinned moment of the state store (`StateStore.pin`) on a worker thread, while commits, reads
and everything else go on. It contains all of a checkpoint: the records and the named values, among them the sessions
and the membership. Which log index that is follows from the named values of the very same moment (``describe``), so the
two cannot disagree.

The file appears under its name complete and synced, or not at all. It is synced piece by piece while it grows, so that
a sync of the log next door never waits for hundreds of megabytes. The bytes are described in `snapshot_format`.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, DiskFile, OsDisk
from plasmacloud.storage.record_store import DEFAULT_PIN_S, RecordStore, RecordStores, Sealed
from plasmacloud.storage.snapshot_format import (
    BLOCK_HEADER_BYTES,
    HEADER_START_BYTES,
    MIN_FILE_BYTES,
    SECTOR_BYTES,
    SHA_BYTES,
    BadSnapshotBytes,
    Footer,
    SnapshotHeader,
    check_block,
    decode_block_header,
    decode_footer,
    decode_header,
    decode_records,
    encode_block,
    encode_footer,
    encode_header,
    header_size,
    padding,
    plain_meta,
)
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import DiskFull, write_error
from plasmacloud.storage.wal_format import Identity, LogMark

BLOCK_BYTES = 256 * 1024
TEMPORARY_SUFFIX = ".unfinished"
_SYNC_BYTES = 4 * 1024 * 1024
_READ_BYTES = 1024 * 1024

Pace = Callable[[int], None]
"""Called on the worker thread after each so many bytes; may sleep to bound the rate."""
Describe = Callable[[Mapping[str, bytes]], LogMark]
"""From the named values of a checkpoint: its log index, the term there and the configuration."""


class DamagedSnapshot(StorageError):
    """The file is no snapshot, is incomplete, or was altered."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(
            f"snapshot {path}, byte {offset}: {what}",
            hint="the file was not copied completely or its disk is failing; copy it again or use another snapshot",
        )
        self.offset = offset


class SnapshotInfo(msgspec.Struct, frozen=True):
    """What a snapshot file says of itself."""

    cluster_id: int
    index: int
    term: int
    conf: bytes
    meta: dict[str, bytes]
    records: int
    size_bytes: int
    sha256: bytes

    @property
    def mark(self) -> LogMark:
        """Where a log that continues behind this snapshot begins."""
        return LogMark(self.index, self.term, self.conf)


def write_snapshot(
    store: RecordStore,
    path: Path,
    *,
    cluster_id: int,
    describe: Describe,
    disk: Disk | None = None,
    pace: Pace | None = None,
    max_age_s: float = DEFAULT_PIN_S,
) -> SnapshotInfo:
    """Write the last checkpoint of ``store`` to the file ``path``, replacing it if it exists. Blocks: worker thread.

    ``pace`` may take up to half of ``max_age_s`` in all; after that the rest is written at full speed, because the pin
    has to end. Raises `PinLost` (take another), `DiskFull`, or `StorageError`; then ``path`` is as it was.
    """
    disk = OsDisk() if disk is None else disk
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        if temporary.name in disk.list_directory(path.parent):
            disk.remove(temporary)
        output = _Output(disk.create(temporary), temporary)
        try:
            info = _copy(store, output, cluster_id, describe, pace, max_age_s)
            output.file.fsync()
        except Exception:
            with contextlib.suppress(OSError):
                disk.remove(temporary)
            raise
        finally:
            output.file.close()
        disk.rename(temporary, path)
        disk.sync_directory(path.parent)
    except OSError as error:
        raise write_error(f"writing the snapshot {path}", error) from error
    return info


def read_info(path: Path, *, disk: Disk | None = None) -> SnapshotInfo:
    """What a snapshot says of itself, from its two ends only. Raises `DamagedSnapshot` or `StorageError`."""
    with SnapshotReader(path, disk=disk) as reader:
        return reader.info


def verify(path: Path, *, disk: Disk | None = None, pace: Pace | None = None) -> SnapshotInfo:
    """Read everything and check it. Raises `DamagedSnapshot` or `StorageError`. Blocks."""
    with SnapshotReader(path, disk=disk) as reader:
        for chunk in reader.chunks():
            if pace is not None:
                pace(sum([len(key) + len(sealed) for key, sealed in chunk]))
        return reader.info


def valid_prefix(path: Path, *, disk: Disk | None = None) -> int:
    """How many bytes from the start are certainly good: whole blocks of a file that is still to be completed.

    Blocks; reads the file. After a power loss the end of a file that was being received may be anything.
    """
    file = _open(OsDisk() if disk is None else disk, path)
    try:
        good = 0
        offset = header_size(file.pread(HEADER_START_BYTES, 0))
        decode_header(file.pread(offset, 0))
        number = 0
        while True:
            good = offset
            header = decode_block_header(file.pread(BLOCK_HEADER_BYTES, offset))
            raw = file.pread(BLOCK_HEADER_BYTES + header.payload_bytes, offset)
            check_block(header, raw)
            if header.number != number:
                return good
            offset += len(raw)
            number += 1
    except BadSnapshotBytes:
        return good
    except OSError as error:
        raise _read_error(path, error) from error
    finally:
        file.close()


def restore_state(
    path: Path,
    state_dir: Path,
    *,
    identity: Identity,
    change_meta: Callable[[SnapshotInfo], Mapping[str, bytes]] | None = None,
    disk: Disk | None = None,
    stores: RecordStores = StateStore,
) -> SnapshotInfo:
    """Build a state store in the new directory ``state_dir`` from the snapshot. Blocks; durable on return.

    ``change_meta`` gives other named values than those of the snapshot: for a new cluster. Raises `DamagedSnapshot`,
    also when the damage is seen only at the end; the caller then removes ``state_dir``, which holds no named values.
    """
    with SnapshotReader(path, disk=disk) as reader:
        info = reader.info
        stores.build(
            state_dir,
            reader.chunks(),
            info.meta if change_meta is None else change_meta(info),
            identity=identity,
        )
    return info


class SnapshotReader:
    """Reads one snapshot file from its beginning to its end, verified."""

    def __init__(self, path: Path, *, disk: Disk | None = None) -> None:
        """Raises `DamagedSnapshot` or `StorageError`."""
        self.path = path
        self._disk = OsDisk() if disk is None else disk
        self._file = _open(self._disk, path)
        self._at = 0
        try:
            self.info = self._read_ends()
        except OSError as error:
            self._file.close()
            raise _read_error(path, error) from error
        except BadSnapshotBytes as error:
            self._file.close()
            raise DamagedSnapshot(path, self._at, str(error)) from None

    def __enter__(self) -> "SnapshotReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self) -> Iterator[list[Sealed]]:
        """All records. The last of them may only be used once the iteration has ended without `DamagedSnapshot`."""
        try:
            yield from self._chunks()
        except BadSnapshotBytes as error:
            raise DamagedSnapshot(self.path, self._at, str(error)) from None
        except OSError as error:
            raise _read_error(self.path, error) from error

    def _read_ends(self) -> SnapshotInfo:
        file = self._file
        size_bytes = file.size_bytes()
        self._header_bytes = header_size(file.pread(HEADER_START_BYTES, 0))
        header = decode_header(file.pread(self._header_bytes, 0))
        self._at = size_bytes
        if size_bytes < MIN_FILE_BYTES or size_bytes % SECTOR_BYTES != SHA_BYTES:
            raise BadSnapshotBytes(f"the file has {size_bytes} bytes, which no complete snapshot has")
        self._at = size_bytes - SHA_BYTES - SECTOR_BYTES
        self._footer = footer = decode_footer(file.pread(SECTOR_BYTES, self._at))
        if footer.size_bytes != size_bytes or footer.records != header.records:
            raise BadSnapshotBytes(
                f"the footer belongs to a snapshot of {footer.size_bytes} bytes with {footer.records} records"
            )
        return SnapshotInfo(
            cluster_id=header.cluster_id,
            index=header.index,
            term=header.term,
            conf=header.conf,
            meta=header.meta,
            records=header.records,
            size_bytes=size_bytes,
            sha256=file.pread(SHA_BYTES, size_bytes - SHA_BYTES),
        )

    def _chunks(self) -> Iterator[list[Sealed]]:
        file, footer = self._file, self._footer
        digest = hashlib.sha256(file.pread(self._header_bytes, 0))
        self._at = self._header_bytes
        number = records = 0
        while self._at < footer.blocks_end:
            start = file.pread(BLOCK_HEADER_BYTES, self._at)
            header = decode_block_header(start)
            raw = start + file.pread(header.payload_bytes, self._at + BLOCK_HEADER_BYTES)
            check_block(header, raw)
            chunk = decode_records(header, raw)
            if header.number != number:
                raise BadSnapshotBytes(f"block {header.number} where block {number} should be")
            digest.update(raw)
            self._at += len(raw)
            number += 1
            records += len(chunk)
            self._disk.give_way()
            yield chunk
        if (self._at, number, records) != (footer.blocks_end, footer.blocks, footer.records):
            raise BadSnapshotBytes(f"{number} blocks with {records} records, the footer says otherwise")
        while self._at < self.info.size_bytes - SHA_BYTES:
            raw = file.pread(min(_READ_BYTES, self.info.size_bytes - SHA_BYTES - self._at), self._at)
            if not raw:
                raise BadSnapshotBytes("the file became shorter while it was read")
            digest.update(raw)
            self._at += len(raw)
        if digest.digest() != self.info.sha256:
            raise BadSnapshotBytes("the SHA-256 of the file is not the one at its end: bytes were altered")


class _Output:
    """Appends to a file, hashing and syncing as it goes."""

    def __init__(self, file: DiskFile, path: Path) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.offset = 0
        self._path = path
        self._synced = 0

    def write(self, data: bytes) -> None:
        written = self.file.pwritev([data], self.offset)
        if written != len(data):
            raise DiskFull(
                f"writing {self._path} failed: the disk took only {written} of {len(data)} bytes",
                hint="free space; nothing else was changed",
            )
        self.digest.update(data)
        self.offset += len(data)
        if self.offset - self._synced >= _SYNC_BYTES:
            self.file.fdatasync()
            self._synced = self.offset


def _copy(
    store: RecordStore, output: _Output, cluster_id: int, describe: Describe, pace: Pace | None, max_age_s: float
) -> SnapshotInfo:
    records = blocks = 0
    with store.pin(max_age_s=max_age_s) as pinned:
        meta = plain_meta(pinned.meta())
        mark = describe(meta)
        header = SnapshotHeader(cluster_id, mark.index, mark.term, mark.conf, meta, pinned.records)
        output.write(encode_header(header))
        for chunk in pinned.chunks(BLOCK_BYTES):
            before = output.offset
            output.write(encode_block(blocks, chunk))
            blocks += 1
            records += len(chunk)
            if pace is not None and pinned.age_s < max_age_s / 2:
                pace(output.offset - before)
    if records != header.records:
        raise StorageError(
            f"state store {store.path} has {records} records where it counts {header.records}",
            hint="the store is damaged; let this member join again as a new one",
        )
    blocks_end = output.offset
    output.write(padding(blocks_end))
    size_bytes = output.offset + SECTOR_BYTES + SHA_BYTES
    output.write(encode_footer(Footer(size_bytes, records, blocks, blocks_end)))
    sha256 = output.digest.digest()
    output.write(sha256)
    assert output.offset == size_bytes
    return SnapshotInfo(cluster_id, mark.index, mark.term, mark.conf, meta, records, size_bytes, sha256)


def _open(disk: Disk, path: Path) -> DiskFile:
    try:
        return disk.open(path)
    except OSError as error:
        raise _read_error(path, error) from error


def _read_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"reading the snapshot {path} failed: {error.strerror or error}")
