"""Installing a snapshot: whatever moment the power goes, the next start has the old state and log or the new."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from log_model import ALL, IDENTITY, entries
from tree_disk import Stopped, TreeDisk, copy_tree

from plasmacloud.storage.entry import HardState
from plasmacloud.storage.install import (
    PENDING_NAME,
    BadInstall,
    Pending,
    begin_install,
    decide,
    finish_pending,
    forget_asides,
    free_aside,
    pending_install,
    prepare_state,
    replacement,
)
from plasmacloud.storage.log_copy import create_log, inspect_log
from plasmacloud.storage.snapshot import DamagedSnapshot, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import CorruptLog, DirectoryInUse, WrongIdentity
from plasmacloud.storage.wal_format import Identity, LogMark

SEGMENT_BYTES = 4096
OTHER = Identity(0xC2, 9)


class Member(NamedTuple):
    """What a start finds."""

    applied: int
    records: int
    mark: int
    last: int
    hard_state: HardState


def open_log(directory: Path) -> Wal:
    return Wal.open(directory / "wal", identity=IDENTITY, segment_bytes=SEGMENT_BYTES)


def make_member(directory: Path, applied: int, last: int, *, term: int = 2) -> None:
    """A member whose state contains ``applied`` entries of a log of ``last``."""
    directory.mkdir(exist_ok=True)
    wal = open_log(directory)
    wal.append_blocking(HardState(term, 5, applied), entries(1, last, term=term))
    wal.close()
    store = StateStore.open(directory / "state", identity=IDENTITY, map_bytes=1 << 20)
    store.commit([(b"%06d" % i, b"x") for i in range(applied)], [], {"applied": b"%d" % applied})
    store.close()
    (directory / "member.json").write_text("{}")


def make_snapshot(directory: Path, index: int, term: int = 2) -> Path:
    """A snapshot of the same cluster at another index."""
    store = StateStore.open(directory / "elsewhere", map_bytes=1 << 20)
    store.commit([(b"%06d" % i, b"x") for i in range(index)], [], {"applied": b"%d" % index})
    target = directory / f"snapshot-{index}"
    write_snapshot(store, target, cluster_id=0xC1, describe=lambda _: LogMark(index, term, b"newer conf"))
    store.close()
    shutil.rmtree(directory / "elsewhere")
    return target


def look(directory: Path) -> Member:
    """As a start does, after `finish_pending`."""
    wal = open_log(directory)
    store = StateStore.open(directory / "state", identity=IDENTITY, map_bytes=1 << 20)
    applied = int(store.meta("applied") or b"-1")
    assert wal.log_mark.index <= applied <= wal.last_index()
    if wal.last_index() > wal.log_mark.index:
        assert wal.entries(wal.log_mark.index + 1, wal.last_index() + 1, ALL)
    found = Member(applied, store.count(), wal.log_mark.index, wal.last_index(), wal.hard_state)
    store.close()
    wal.close()
    return found


OLD = Member(30, 30, 0, 40, HardState(2, 5, 30))
AHEAD = Member(100, 100, 100, 100, HardState(2, 5, 100))


@pytest.fixture
def member(tmp_path: Path) -> Path:
    make_member(tmp_path / "n1", 30, 40)
    return tmp_path / "n1"


def test_a_snapshot_far_ahead_replaces_state_and_log_and_the_vote_stays(tmp_path: Path, member: Path) -> None:
    snapshot = make_snapshot(tmp_path, 100)
    begin_install(member, snapshot, identity=IDENTITY)
    assert pending_install(member) is not None
    done = finish_pending(member)
    assert done is not None
    assert "index 100" in done.what
    assert look(member) == AHEAD
    assert finish_pending(member) is None
    assert {path.name for path in member.iterdir()} == {"wal", "state", "member.json"}
    wal = open_log(member)
    assert wal.log_mark.conf == b"newer conf"
    wal.append_blocking(None, entries(101, 102, term=2))
    wal.close()


def test_a_snapshot_inside_the_log_keeps_the_entries_behind_it(tmp_path: Path, member: Path) -> None:
    begin_install(member, make_snapshot(tmp_path, 35), identity=IDENTITY)
    finish_pending(member)
    assert look(member) == Member(35, 35, 35, 40, HardState(2, 5, 35))


def test_a_snapshot_of_a_later_term_raises_the_term_and_forgets_the_vote(tmp_path: Path, member: Path) -> None:
    begin_install(member, make_snapshot(tmp_path, 100, term=4), identity=IDENTITY)
    finish_pending(member)
    assert look(member).hard_state == HardState(4, 0, 100)


def test_a_running_member_installs_with_its_log_open(tmp_path: Path, member: Path) -> None:
    snapshot = make_snapshot(tmp_path, 100)
    wal = open_log(member)
    info = prepare_state(member, snapshot, identity=IDENTITY)
    begin_install(member, snapshot, identity=IDENTITY, prepared=True)
    with pytest.raises(BadInstall, match="at mark 0"):
        finish_pending(member, wal=wal)
    with pytest.raises(DirectoryInUse):
        finish_pending(member)
    wal.mark_blocking(info.index, info.term, info.conf)
    assert finish_pending(member, wal=wal) is not None
    wal.close()
    assert look(member)[:4] == AHEAD[:4]


def test_leftovers_are_not_touched_while_the_member_runs(tmp_path: Path, member: Path) -> None:
    wal = open_log(member)
    prepare_state(member, make_snapshot(tmp_path, 100), identity=IDENTITY)
    with pytest.raises(DirectoryInUse):
        finish_pending(member)
    assert (member / "state.new").exists()
    wal.close()
    assert finish_pending(member) is None
    assert not (member / "state.new").exists()
    assert look(member) == OLD


@pytest.mark.parametrize("index", [35, 100])
@pytest.mark.parametrize("power", ["process killed", "power lost"])
def test_a_stop_at_every_operation(tmp_path: Path, member: Path, index: int, power: str) -> None:
    snapshot = make_snapshot(tmp_path, index)
    new = Member(index, index, index, max(index, 40), HardState(2, 5, index))
    image = tmp_path / "image"
    seen = set()

    def install(disk: TreeDisk) -> None:
        begin_install(image, snapshot, identity=IDENTITY, disk=disk)
        finish_pending(image, disk=disk)

    for stop_at in range(1, 1000):
        copy_tree(member, image)
        disk = TreeDisk(stop_at)
        finished = _run(install, disk)
        if power == "power lost":
            disk.lose_names()
        done = finished or f"remove {PENDING_NAME}" in disk.operations
        expected = new if done or (image / PENDING_NAME).exists() else OLD
        _start_with_stops(image, tmp_path / "again", expected)
        finish_pending(image)
        found = look(image)
        seen.add(found)
        assert found == expected
        assert {path.name for path in image.iterdir() if "grave" not in path.name} == {"wal", "state", "member.json"}
        if finished:
            break
    assert stop_at > 15
    assert seen == {OLD, new}


def _run(install: Callable[[TreeDisk], None], disk: TreeDisk) -> bool:
    try:
        install(disk)
    except Stopped:
        return False
    finally:
        disk.die()
    return True


def _start_with_stops(image: Path, again: Path, expected: Member) -> None:
    """The start that finishes is cut short, too, at a few places."""
    for stop_at in (1, 2, 4, 7, 11):
        copy_tree(image, again)
        disk = TreeDisk(stop_at)
        _run(lambda disk: _finish(again, disk), disk)
        disk.lose_names()
        finish_pending(again)
        assert look(again) == expected


def _finish(directory: Path, disk: TreeDisk) -> None:
    finish_pending(directory, disk=disk)


def test_a_damaged_snapshot_changes_nothing(tmp_path: Path, member: Path) -> None:
    snapshot = make_snapshot(tmp_path, 100)
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(data)
    with pytest.raises(DamagedSnapshot):
        begin_install(member, snapshot, identity=IDENTITY)
    assert finish_pending(member) is None
    assert {path.name for path in member.iterdir()} == {"wal", "state", "member.json"}
    assert look(member) == OLD


def test_a_second_installation_waits_for_the_first(tmp_path: Path, member: Path) -> None:
    snapshot = make_snapshot(tmp_path, 100)
    begin_install(member, snapshot, identity=IDENTITY)
    with pytest.raises(BadInstall, match="not finished"):
        begin_install(member, snapshot, identity=IDENTITY)
    finish_pending(member)
    assert look(member) == AHEAD


def test_the_mark_must_be_that_of_the_snapshot(tmp_path: Path, member: Path) -> None:
    with pytest.raises(BadInstall, match="of index 100"):
        begin_install(member, make_snapshot(tmp_path, 100), identity=IDENTITY, mark=LogMark(99, 2, b""))


def test_an_older_snapshot_than_the_log_begins_with_is_refused(tmp_path: Path, member: Path) -> None:
    wal = open_log(member)
    wal.mark_blocking(30, 2, b"")
    wal.close()
    begin_install(member, make_snapshot(tmp_path, 20), identity=IDENTITY)
    with pytest.raises(BadInstall, match="begins behind 30"):
        finish_pending(member)


def test_a_snapshot_that_contradicts_what_is_committed_is_refused(tmp_path: Path, member: Path) -> None:
    begin_install(member, make_snapshot(tmp_path, 20, term=1), identity=IDENTITY)
    with pytest.raises(BadInstall, match="committed another entry 20"):
        finish_pending(member)


def test_the_directory_of_another_member_is_refused(tmp_path: Path, member: Path) -> None:
    begin_install(member, make_snapshot(tmp_path, 100), identity=OTHER)
    with pytest.raises(WrongIdentity):
        finish_pending(member)


def test_nothing_is_decided_without_the_new_parts(member: Path) -> None:
    with pytest.raises(BadInstall, match=r"wal\.new is missing"):
        decide(member, Pending("x", (replacement("wal"),)))
    assert pending_install(member) is None


def test_what_is_kept_aside_stays_until_it_is_forgotten(member: Path) -> None:
    for number in (1, 2):
        aside = free_aside(member, ("wal", "member.json"))
        assert aside == {"wal": f"wal.before-{number}", "member.json": f"member.json.before-{number}"}
        create_log(member / "wal.new", identity=OTHER, mark=LogMark(7, 2, b"c"), hard_state=HardState(2, 0, 7))
        (member / "member.json.new").write_text(str(number))
        decide(member, Pending("x", tuple(replacement(name, aside=aside[name]) for name in aside)))
        with pytest.raises(BadInstall, match="begun and not finished"):
            finish_pending(member)  # who starts a member does not change whose it is
        finish_pending(member, change_owner=True)
        finish_pending(member)
        assert (member / "member.json").read_text() == str(number)
        assert (member / "wal.before-1").exists()
    with inspect_log(member / "wal.before-1") as old:
        assert old.identity == IDENTITY
    assert len(forget_asides(member)) == 4
    assert forget_asides(member) == []
    assert {path.name for path in member.iterdir()} == {"wal", "state", "member.json"}


def test_a_damaged_or_foreign_decision_is_refused(member: Path) -> None:
    (member / PENDING_NAME).write_text("{")
    with pytest.raises(Exception, match="cannot be read"):
        finish_pending(member)
    (member / PENDING_NAME).write_text('{"what": "x", "replacements": [], "format": 2}')
    with pytest.raises(Exception, match="format 2"):
        finish_pending(member)


def test_a_directory_that_does_not_exist_yet_has_nothing_pending(tmp_path: Path) -> None:
    assert finish_pending(tmp_path / "nothing") is None
    assert pending_install(tmp_path / "nothing") is None
    (tmp_path / "empty").mkdir()
    assert finish_pending(tmp_path / "empty") is None
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(BadInstall, match="is missing"):
        _finish_without_parts(tmp_path / "empty")


def _finish_without_parts(directory: Path) -> None:
    (directory / "state.new").mkdir()
    decide(directory, Pending("x", (replacement("state"),)))
    (directory / "state.new").rmdir()
    finish_pending(directory)


# --- looking at a log, and making one --------------------------------------------------------------------------------


def test_a_log_is_inspected_without_being_changed(member: Path) -> None:
    segment = sorted((member / "wal").glob("*.wal"))[-1]
    data = bytearray(segment.read_bytes())
    end = len(data.rstrip(b"\0"))
    end += -end % 512
    data[end + 512 : end + 520] = b"torn end"
    segment.write_bytes(data)
    before = {path: path.read_bytes() for path in (member / "wal").glob("*.wal")}
    with inspect_log(member / "wal") as log:
        assert log.identity == IDENTITY
        assert log.hard_state == HardState(2, 5, 30)
        assert (log.first_index, log.last_index, log.last_term) == (1, 40, 2)
        assert log.torn is not None
        assert log.newest_segment == segment
        assert [e.data for e in log.entries(39)] == [b"39/2", b"40/2"]
        assert list(log.entries(41)) == []
        with pytest.raises(DirectoryInUse):
            open_log(member)
    assert before == {path: path.read_bytes() for path in (member / "wal").glob("*.wal")}
    assert look(member) == OLD


def test_a_running_members_log_is_not_inspected(member: Path) -> None:
    wal = open_log(member)
    with pytest.raises(DirectoryInUse), inspect_log(member / "wal"):
        pass
    wal.close()


def test_damage_is_found_by_the_inspection(member: Path) -> None:
    segment = sorted((member / "wal").glob("*.wal"))[0]
    data = bytearray(segment.read_bytes())
    data[600] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CorruptLog), inspect_log(member / "wal"):
        pass


def test_a_log_of_another_owner_begins_behind_a_mark(tmp_path: Path) -> None:
    mark = LogMark(77, 3, b"alone")
    create_log(tmp_path / "wal", identity=OTHER, mark=mark, hard_state=HardState(3, 0, 77))
    wal = Wal.open(tmp_path / "wal", identity=OTHER)
    assert (wal.log_mark, wal.hard_state, wal.last_index()) == (mark, HardState(3, 0, 77), 77)
    wal.append_blocking(None, entries(78, 79, term=4))
    wal.close()
    with inspect_log(tmp_path / "wal") as log:
        assert (log.mark, log.last_index) == (mark, 79)
