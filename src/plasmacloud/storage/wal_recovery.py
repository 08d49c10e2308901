"""Reading the log back: what is whole, what was torn by a crash, and what is damage that nobody may guess about.

The writer syncs every group before it starts the next, so after a power loss at most the last group can be
incomplete, and nothing in it was acknowledged. Hence the rule:

- bad bytes with **no** valid group header behind them: the torn end of the log; cut, zeroed, reported;
- bad bytes **with** a valid group header behind them, or in a segment that has a successor: the bytes had been
  acknowledged and are damaged; the log refuses to open (`CorruptLog`).

A bit that rots inside the very last group looks exactly like a torn write and is cut. To keep that window small the
log writes an empty group when it is opened and when it is closed: everything before is then followed by a valid
header.

Each segment's header repeats the state of the log at its start. The replay must arrive at the same state, so a lost
end of an earlier segment, a missing segment or a file from elsewhere is noticed even when every checksum is right.
"""

import re
from itertools import pairwise
from pathlib import Path

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, DiskFile
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.wal_errors import CorruptLog, UnsupportedFormat, WrongIdentity, write_error
from plasmacloud.storage.wal_format import (
    BLOCK_BYTES,
    GROUP_HEADER_BYTES,
    GROUP_MAGIC,
    KIND_HARD_STATE,
    KIND_MARK,
    KIND_RESET,
    MAX_CONF_BYTES,
    SEGMENT_HEADER_BYTES,
    BadBytes,
    Identity,
    LogMark,
    Record,
    SegmentHeader,
    decode_group_header,
    decode_hard_state,
    decode_payload,
    decode_segment_header,
    group_size_bytes,
    padded,
    salt_seed,
)
from plasmacloud.storage.wal_index import LogIndex, pack_location

_SEGMENT_NAME = re.compile(r"([0-9]{10})\.wal")
_ZERO_CHUNK = bytes(1024 * 1024)


class TornTail(msgspec.Struct, frozen=True):
    """What was cut from the end of the log: an unfinished, never acknowledged write."""

    file: str
    offset: int
    torn_bytes: int  # from the start of the unfinished group to the last byte that is not zero


class RecoveryReport(msgspec.Struct):
    """What opening the directory found."""

    created: bool = False
    segments: int = 0
    entries: int = 0
    torn: TornTail | None = None


class Recovered(msgspec.Struct):
    """The log as the disk holds it."""

    index: LogIndex
    hard_state: HardState
    mark: LogMark
    headers: list[SegmentHeader]  # oldest first
    next_sequence: int
    tail_offset: int  # where the next group goes in the newest segment
    report: RecoveryReport


def segment_name(number: int) -> str:
    """File name of a segment."""
    return f"{number:010d}.wal"


def list_segments(disk: Disk, directory: Path) -> list[int]:
    """Numbers of the segments in the directory, ascending; raises `CorruptLog` when one in between is missing."""
    numbers = sorted(
        int(match[1]) for name in disk.list_directory(directory) if (match := _SEGMENT_NAME.fullmatch(name))
    )
    for before, after in pairwise(numbers):
        if after != before + 1:
            raise CorruptLog(
                segment_name(before + 1), 0, f"the segment is missing although {segment_name(after)} exists"
            )
    return numbers


def recover(
    disk: Disk,
    directory: Path,
    numbers: list[int],
    identity: Identity | None,
    window_bytes: int,
    *,
    repair: bool = True,
) -> Recovered:
    """Replay the segments; cut a torn end. Raises `CorruptLog`, `WrongIdentity` or `UnsupportedFormat`.

    Without an identity, that of the oldest segment is taken. Without ``repair`` a torn end stays on the disk as it is.
    """
    assert numbers
    replay: _Replay | None = None
    for number in numbers:
        path = directory / segment_name(number)
        try:
            file = disk.open(path)
        except OSError as error:
            raise write_error(f"opening {path}", error) from error
        try:
            data = file.pread(file.size_bytes(), 0)
            header = _read_header(path, data, number, identity)
            identity = header.identity
            if replay is None:
                replay = _Replay(header, window_bytes)
            replay.segment(path, data, header, newest=number == numbers[-1])
            if repair and replay.report.torn is not None:
                _zero(file, replay.tail_offset, len(data))
            if repair and number == numbers[-1]:
                _settle(file, data, replay.last_offset, replay.tail_offset)
                disk.sync_directory(directory)
        except OSError as error:
            raise write_error(f"reading or repairing {path}", error) from error
        finally:
            file.close()
    assert replay is not None
    return replay.finish(directory)


def _read_header(path: Path, data: bytes, number: int, identity: Identity | None) -> SegmentHeader:
    try:
        version, header = decode_segment_header(data[: SEGMENT_HEADER_BYTES + MAX_CONF_BYTES])
    except BadBytes as error:
        raise CorruptLog(str(path), 0, str(error)) from None
    if header is None:
        raise UnsupportedFormat(
            f"{path} has log format {version}, which this version of PlasmaCloud cannot read",
            hint="start the version that wrote it, or a newer one",
        )
    if identity is not None and header.identity != identity:
        raise WrongIdentity(
            f"data directory {path.parent} belongs to cluster {header.identity.cluster_id:x}, "
            f"member {header.identity.member_id:x}, not to cluster {identity.cluster_id:x}, "
            f"member {identity.member_id:x}",
            hint="check the configured data directory, member name and cluster token",
        )
    if header.segment != number:
        raise CorruptLog(str(path), 0, f"the file contains segment {header.segment}: it was renamed or copied")
    if len(data) < header.segment_bytes:
        raise CorruptLog(
            str(path), len(data), f"the file has {len(data)} of {header.segment_bytes} bytes: it was truncated"
        )
    return header


class _Replay:
    """The state of the log while its segments are read in order."""

    def __init__(self, first: SegmentHeader, window_bytes: int) -> None:
        self.index = LogIndex(first.last_index, first.last_term, window_bytes)
        self.hard_state = first.hard_state
        self.mark = first.mark
        self.next_sequence = first.first_sequence
        self.headers: list[SegmentHeader] = []
        self.last_offset = 0  # of the last whole group of the newest segment; of its header while there is none
        self.tail_offset = 0
        self.report = RecoveryReport()

    def segment(self, path: Path, data: bytes, header: SegmentHeader, *, newest: bool) -> None:
        """Replay one segment."""
        self._check_continuity(path, header)
        self.headers.append(header)
        seed = salt_seed(header.salt)
        offset = header.padded_bytes
        self.last_offset = 0
        damage = ""
        while True:
            group = decode_group_header(data, offset, seed, header.segment)
            if group is None or group.sequence != self.next_sequence:
                break
            try:
                records = decode_payload(data, offset + GROUP_HEADER_BYTES, group)
            except BadBytes as error:
                damage = str(error)
                break
            for record in records:
                self._record(path, header.segment, record)
            self.next_sequence += 1
            self.last_offset = offset
            offset += group_size_bytes(group.payload_bytes)
        self.tail_offset = offset
        if newest:
            self._judge_tail(path, data, header, damage)
        elif damage:
            raise CorruptLog(str(path), offset, f"damaged although newer segments exist: {damage}")

    def _check_continuity(self, path: Path, header: SegmentHeader) -> None:
        """The header must describe exactly the state that the replay arrived at."""
        pairs = (
            ("group", self.next_sequence, header.first_sequence),
            ("last index", self.index.last_index, header.last_index),
            ("last term", self.index.last_term, header.last_term),
            ("hard state", self.hard_state, header.hard_state),
            ("mark", self.mark, header.mark),
        )
        for name, found, promised in pairs:
            if found != promised:
                raise CorruptLog(
                    str(path.with_name(segment_name(header.segment - 1))),
                    self.tail_offset,
                    f"the segment ends at {name} {found}, but {path.name} continues from {name} {promised}: "
                    "groups are missing or damaged",
                )

    def _judge_tail(self, path: Path, data: bytes, header: SegmentHeader, damage: str) -> None:
        """Decide whether the bytes behind the last whole group are an unfinished write or damage."""
        start = self.tail_offset
        later = _find_group(data, start + BLOCK_BYTES, header)
        if later is not None:
            raise CorruptLog(
                str(path),
                start,
                f"group {self.next_sequence} is damaged ({damage or 'no valid header'}), "
                f"but a later group follows at byte {later}: acknowledged data is lost",
            )
        used = len(data[start:].rstrip(b"\0"))
        if used:
            self.report.torn = TornTail(path.name, start, used)

    def _record(self, path: Path, segment: int, record: Record) -> None:
        """Apply one record; its checksum is right, but it must also make sense here."""
        index, kind = record.index, record.kind
        log = self.index
        if kind == KIND_HARD_STATE:
            self.hard_state = decode_hard_state(record)
        elif kind in (KIND_MARK, KIND_RESET):
            if index < self.mark.index or (kind == KIND_MARK and index > log.last_index):
                raise CorruptLog(str(path), record.offset, f"a log mark at {index} makes no sense here")
            self.mark = LogMark(index, record.term, record.data)
            if kind == KIND_RESET:
                log.reset(index, record.term)
        else:
            if not self.mark.index < index <= log.last_index + 1 or record.term == 0:
                raise CorruptLog(
                    str(path),
                    record.offset,
                    f"entry {index} of term {record.term} cannot follow entry {log.last_index} "
                    f"(log mark at {self.mark.index})",
                )
            log.recover_entry(index, record.term, pack_location(segment, record.offset))

    def finish(self, directory: Path) -> Recovered:
        """Last checks over the whole log."""
        log, mark, state = self.index, self.mark, self.hard_state
        log.recovered()
        if mark.index < log.base_index:
            raise CorruptLog(
                str(directory / segment_name(self.headers[0].segment - 1)),
                0,
                f"the segment is missing: the log starts behind entry {log.base_index}, "
                f"but only the state up to {mark.index} was saved elsewhere",
            )
        if mark.index > log.last_index or state.commit > log.last_index:
            raise CorruptLog(
                str(directory / segment_name(self.headers[-1].segment)),
                self.tail_offset,
                f"the log ends at entry {log.last_index}, mark is {mark.index}, commit index {state.commit}",
            )
        if mark.index >= log.base_index and log.term(mark.index) != mark.term:
            raise CorruptLog(
                str(directory), 0, f"entry {mark.index} has term {log.term(mark.index)}, the log mark says {mark.term}"
            )
        self.report.segments = len(self.headers)
        self.report.entries = log.last_index - log.base_index
        return Recovered(
            log, state, mark, self.headers, self.next_sequence, padded(self.tail_offset), self.report
        )  # fmt: skip


def _find_group(data: bytes, start: int, header: SegmentHeader) -> int | None:
    """Offset of a valid group header at or behind ``start``."""
    seed = salt_seed(header.salt)
    offset = data.find(GROUP_MAGIC, start)
    while offset >= 0:
        if offset % BLOCK_BYTES == 0 and decode_group_header(data, offset, seed, header.segment) is not None:
            return offset
        offset = data.find(GROUP_MAGIC, offset + 1)
    return None


def _settle(file: DiskFile, data: bytes, start: int, end: int) -> None:
    """Make what was read durable before anybody believes in it: it may have come from memory only.

    A process that died between a write and its sync leaves both in the page cache, where its successor reads them. All
    groups but the last one had been synced. That one is written once more, because pages whose sync has failed count as
    clean from then on, and no other sync would carry them to the disk. A group that is longer than a segment makes the
    file longer; of its end, which is padding, a crash may have left less.
    """
    if file.pwritev([data[start:end].ljust(end - start, b"\0")], start) != end - start:
        raise StorageError(f"the disk did not take {end - start} bytes at byte {start}")
    file.fdatasync()


def _zero(file: DiskFile, start: int, end: int) -> None:
    """Overwrite the torn end, durably, so that it can never be mistaken for anything."""
    for offset in range(start, end, len(_ZERO_CHUNK)):
        chunk = _ZERO_CHUNK[: min(len(_ZERO_CHUNK), end - offset)]
        if file.pwritev([chunk], offset) != len(chunk):
            raise StorageError(f"the disk did not take {len(chunk)} zeros at byte {offset}")
    file.fdatasync()
