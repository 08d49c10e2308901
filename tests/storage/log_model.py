"""Small tools of the log tests: entries by number, and the contents of a log as a comparable value."""

from pathlib import Path
from typing import NamedTuple

from plasmacloud.storage.disk import Disk
from plasmacloud.storage.entry import Entry, EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity, LogMark

IDENTITY = Identity(cluster_id=0xC1, member_id=7)
DIRECTORY = Path("/data/wal")
ALL = 1 << 40


class Contents(NamedTuple):
    """Everything a log promises."""

    hard_state: HardState
    mark: LogMark
    last_index: int
    entries: tuple[bytes, ...]  # records from mark.index + 1 on


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    """An entry whose data tells its index and term apart from any other."""
    return make_entry(term, index, EntryKind.COMMANDS, data or b"%d/%d" % (index, term))


def entries(first: int, last: int, term: int = 1, padding: int = 0) -> list[Entry]:
    """Entries first..last of one term."""
    return [entry(i, term, b"%d/%d" % (i, term) + b"." * padding) for i in range(first, last + 1)]


def open_wal(disk: Disk, *, segment_bytes: int = 8192, window_bytes: int = 1 << 20) -> Wal:
    """The log of the tests."""
    return Wal.open(DIRECTORY, identity=IDENTITY, disk=disk, segment_bytes=segment_bytes, window_bytes=window_bytes)


def contents(wal: Wal) -> Contents:
    """What the log holds behind its mark."""
    first, last = wal.log_mark.index + 1, wal.last_index()
    found = wal.entries(first, last + 1, ALL) if first <= last else []
    assert [e.index for e in found] == list(range(first, last + 1))
    assert all(wal.term(e.index) == e.term for e in found)
    return Contents(wal.hard_state, wal.log_mark, last, tuple(e.record for e in found))


def recovered_contents(disk: Disk) -> Contents:
    """What the next start finds."""
    wal = open_wal(disk)
    found = contents(wal)
    wal.close()
    return found
