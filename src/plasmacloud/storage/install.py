"""Replacing parts of a data directory by others, so that a crash at any moment leaves the old or the new whole.

A follower that fell too far behind gets a snapshot in place of its state, a lost cluster is recovered under another
identity: each time several directories change that are only right together. The way is always the same.

1. The new parts are built beside the old ones (``state.new`` …) and made durable. A crash here leaves rubbish, which
   the next start removes.
2. The file ``install.json`` appears, durably: it says which parts replace which, and what the log has to forget. This
   is the moment of decision. Before it nothing has happened; behind it nothing can be taken back.
3. `finish_pending` carries out what the file says. Every step may find itself done already, and each name change is
   durable before the next, so it may be cut short anywhere and begun again: it is called at every start, before
   anything else in the directory is opened. Its last step removes the file.

The log of an installed snapshot is *not* replaced: it keeps the term and the vote, without which the member could vote
twice, and any entries behind the snapshot. It is moved to the snapshot's mark, which its own format makes atomic.

What replaced parts were called before is either removed at the end or, when ``keep`` says so, stays aside until
`forget_asides`, so that an operator can still go back by hand.
"""

import re
from pathlib import Path

import msgspec

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.disk import Disk, OsDisk
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.record_store import RecordStores
from plasmacloud.storage.small_files import read_durably, write_file
from plasmacloud.storage.snapshot import DamagedSnapshot, SnapshotInfo, read_info, restore_state
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import DEFAULT_SEGMENT_BYTES, Wal
from plasmacloud.storage.wal_errors import write_error
from plasmacloud.storage.wal_format import Identity, LogMark

PENDING_NAME = "install.json"
_PENDING_TEMPORARY = "install.tmp"
FRESH_SUFFIX = ".new"
_OLD_SUFFIX = ".old"
_ASIDE = re.compile(r".+\.before-[0-9]+")
_FORMAT = 1
STATE = "state"
LOG = "wal"
OWNER = "member.json"


class Replacement(msgspec.Struct, frozen=True):
    """``fresh`` takes the name ``name``; what had it is called ``aside`` from then on. All in the data directory."""

    name: str
    fresh: str  # empty: nothing takes the name
    aside: str
    keep: bool = False  # whether what was replaced stays


class LogMove(msgspec.Struct, frozen=True):
    """The log of this owner has to begin behind this mark at the latest."""

    cluster_id: int
    member_id: int
    index: int
    term: int
    conf: bytes


class Pending(msgspec.Struct, frozen=True):
    """An installation that was decided. ``what`` is for the log of the start that finishes it."""

    what: str
    replacements: tuple[Replacement, ...]
    log: LogMove | None = None
    format: int = _FORMAT


class BadInstall(StorageError):
    """The installation contradicts what is in the directory. Nothing was changed."""


# --- deciding --------------------------------------------------------------------------------------------------------


def prepare_state(
    data_dir: Path,
    snapshot: Path,
    *,
    identity: Identity,
    disk: Disk | None = None,
    stores: RecordStores = StateStore,
) -> SnapshotInfo:
    """Build the state of a snapshot beside that of the member, which may be running. Blocks: worker thread.

    Nothing that counts is changed. Raises `DamagedSnapshot` or `StorageError`.
    """
    disk = OsDisk() if disk is None else disk
    fresh = data_dir / (STATE + FRESH_SUFFIX)
    try:
        disk.remove_tree(fresh)
        try:
            return restore_state(snapshot, fresh, identity=identity, disk=disk, stores=stores)
        except DamagedSnapshot:
            disk.remove_tree(fresh)
            raise
    except OSError as error:
        raise write_error(f"building {fresh}", error) from error


def begin_install(
    data_dir: Path,
    snapshot: Path,
    *,
    identity: Identity,
    mark: LogMark | None = None,
    prepared: bool = False,
    disk: Disk | None = None,
    stores: RecordStores = StateStore,
) -> Pending:
    """Decide that the snapshot replaces the state of this member. Durable on return; `finish_pending` carries it out.

    With ``prepared`` the state was built by `prepare_state`, and this takes a few milliseconds. ``mark`` is the
    snapshot's own unless given. Between this and the end of `finish_pending` a running member may not commit to its
    state store. Raises `DamagedSnapshot`, `BadInstall` or `StorageError`.
    """
    disk = OsDisk() if disk is None else disk
    info = read_info(snapshot, disk=disk) if prepared else prepare_state(
        data_dir, snapshot, identity=identity, disk=disk, stores=stores
    )  # fmt: skip
    if mark is None:
        mark = info.mark
    if (mark.index, mark.term) != (info.index, info.term):
        raise BadInstall(
            f"the snapshot {snapshot} is of index {info.index}, term {info.term}; "
            f"asked for are index {mark.index}, term {mark.term}"
        )
    move = LogMove(identity.cluster_id, identity.member_id, mark.index, mark.term, mark.conf)
    pending = Pending(f"a snapshot of index {mark.index}", (replacement(STATE),), move)
    decide(data_dir, pending, disk=disk)
    return pending


def replacement(name: str, *, aside: str | None = None) -> Replacement:
    """``name.new`` replaces ``name``, which is removed, or stays under the name ``aside``."""
    return Replacement(name, name + FRESH_SUFFIX, aside or name + _OLD_SUFFIX, keep=aside is not None)


def decide(data_dir: Path, pending: Pending, *, disk: Disk | None = None) -> None:
    """Write down, durably, what `finish_pending` has to do: the point of no return. The new parts are durable.

    Raises `BadInstall` or `StorageError`; nothing was decided then.
    """
    disk = OsDisk() if disk is None else disk
    try:
        names = set(disk.list_directory(data_dir))
        missing = [part.fresh for part in pending.replacements if part.fresh and part.fresh not in names]
        if missing or PENDING_NAME in names:
            problem = f"{', '.join(missing)} is missing" if missing else "another installation is not finished"
            raise BadInstall(f"cannot install {pending.what} in {data_dir}: {problem}")
        write_file(data_dir / PENDING_NAME, msgspec.json.encode(pending), disk=disk, temporary=_PENDING_TEMPORARY)
    except OSError as error:
        raise write_error(f"writing {data_dir / PENDING_NAME}", error) from error


# --- carrying out ----------------------------------------------------------------------------------------------------


def pending_install(data_dir: Path, *, disk: Disk | None = None) -> Pending | None:
    """What was decided and is not finished. Raises `StorageError`."""
    disk = OsDisk() if disk is None else disk
    path = data_dir / PENDING_NAME
    try:
        if PENDING_NAME not in disk.list_directory(data_dir):
            return None
        pending = msgspec.json.decode(read_durably(path, disk=disk), type=Pending)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"reading {path} failed: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise StorageError(
            f"{path} cannot be read: {error}", hint="the disk altered it; restore the data directory from a backup"
        ) from error
    if pending.format != _FORMAT:
        raise StorageError(f"{path} has format {pending.format}", hint="start the version that wrote it")
    return pending


def finish_pending(
    data_dir: Path,
    *,
    wal: Wal | None = None,
    change_owner: bool = False,
    disk: Disk | None = None,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
) -> Pending | None:
    """Carry out what was decided, and remove what was never decided. Call it at every start, before anything is opened.

    Returns what was finished, for the log. A running member that installs a snapshot passes its open log, which it has
    moved to the mark already (`Wal.mark`, durable), and has closed its state store. Only with ``change_owner`` it gives
    the directory another owner: who starts a member has already concluded from ``member.json`` who it is. Raises
    `DirectoryInUse` while a member runs in the directory, `BadInstall`, or `StorageError`; it may be called again then.
    """
    disk = OsDisk() if disk is None else disk
    try:
        names = set(disk.list_directory(data_dir))
    except FileNotFoundError:
        return None
    pending = pending_install(data_dir, disk=disk)
    if pending is None and not _leftovers(names):
        return None
    if pending is not None and not change_owner and OWNER + FRESH_SUFFIX in names:
        raise BadInstall(
            f"{pending.what} of {data_dir} was begun and not finished",
            hint="run the same command again: it goes on from there",
        )
    try:
        if pending is not None and pending.log is not None:
            _move_log(data_dir, pending.log, wal, disk, segment_bytes)
        lock = disk.lock_directory(data_dir / LOG) if wal is None and LOG in names else None
        try:
            if pending is not None:
                _replace(data_dir, pending, disk)
            _clean(data_dir, disk)
        finally:
            if lock is not None:
                lock.release()
    except OSError as error:
        raise write_error(f"installing in {data_dir}", error) from error
    return pending


def forget_asides(data_dir: Path, *, disk: Disk | None = None) -> list[str]:
    """Remove what installations kept aside, when the member has started successfully. Returns the names."""
    disk = OsDisk() if disk is None else disk
    try:
        names = sorted(name for name in disk.list_directory(data_dir) if _ASIDE.fullmatch(name))
        for name in names:
            disk.remove_tree(data_dir / name)
        if names:
            disk.sync_directory(data_dir)
    except OSError as error:
        raise write_error(f"removing what was kept in {data_dir}", error) from error
    return names


def free_aside(data_dir: Path, names: tuple[str, ...], *, disk: Disk | None = None) -> dict[str, str]:
    """For each name, one that is free and that `forget_asides` knows; the same number for all of them."""
    disk = OsDisk() if disk is None else disk
    taken = set(disk.list_directory(data_dir))
    number = 1
    while any(f"{name}.before-{number}" in taken for name in names):
        number += 1
    return {name: f"{name}.before-{number}" for name in names}


def _move_log(data_dir: Path, move: LogMove, wal: Wal | None, disk: Disk, segment_bytes: int) -> None:
    """Make the log begin at the snapshot: the term and the vote stay."""
    mark = LogMark(move.index, move.term, move.conf)
    if wal is not None:
        if wal.durable_mark < mark.index:
            raise BadInstall(f"the log in {wal.path} is at mark {wal.durable_mark}, the snapshot at {mark.index}")
        return
    identity = Identity(move.cluster_id, move.member_id)
    log = Wal.open(data_dir / LOG, identity=identity, disk=disk, segment_bytes=segment_bytes)
    try:
        if log.log_mark.index > mark.index:
            raise BadInstall(
                f"the log in {log.path} begins behind {log.log_mark.index}, the snapshot to install is of {mark.index}",
                hint=f"the directory was put together from two copies; see {PENDING_NAME} in it",
            )
        state = log.hard_state
        if state.commit > mark.index and log.term(mark.index) != mark.term:
            raise BadInstall(f"the log in {log.path} has committed another entry {mark.index} than the snapshot's")
        if log.log_mark.index < mark.index:
            log.mark_blocking(mark.index, mark.term, mark.conf)
        term = max(state.term, mark.term)
        moved = HardState(term, state.vote if term == state.term else 0, max(state.commit, mark.index))
        if moved != state:
            log.append_blocking(moved, ())
    finally:
        log.close()


def _replace(data_dir: Path, pending: Pending, disk: Disk) -> None:
    for part in pending.replacements:
        names = disk.list_directory(data_dir)
        if part.fresh and part.fresh not in names:
            if part.name not in names:
                raise BadInstall(f"{data_dir / part.name} is missing, and nothing is there to replace it")
            continue  # done before
        if part.name in names:
            if part.aside in names:
                disk.remove_tree(data_dir / part.aside)
                disk.sync_directory(data_dir)
            disk.rename(data_dir / part.name, data_dir / part.aside)
            disk.sync_directory(data_dir)
        if part.fresh:
            disk.rename(data_dir / part.fresh, data_dir / part.name)
            disk.sync_directory(data_dir)
    for part in pending.replacements:
        if not part.keep:
            disk.remove_tree(data_dir / part.aside)
    disk.sync_directory(data_dir)
    disk.remove(data_dir / PENDING_NAME)
    disk.sync_directory(data_dir)


def _leftovers(names: set[str]) -> list[str]:
    """What a crash before the decision, or during the last removals, has left."""
    known = (STATE, LOG, OWNER)
    unborn = {name + FRESH_SUFFIX for name in known} | {_PENDING_TEMPORARY}
    dead = {name + _OLD_SUFFIX for name in known if name in names}
    return sorted(names & (unborn | dead))


def _clean(data_dir: Path, disk: Disk) -> None:
    leftovers = _leftovers(set(disk.list_directory(data_dir)))
    for name in leftovers:
        disk.remove_tree(data_dir / name)
    if leftovers:
        disk.sync_directory(data_dir)
