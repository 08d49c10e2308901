"""A cluster whose majority is lost for good goes on as a new cluster of one survivor. Offline, and never by itself.

What the survivor has is its log. Whatever was acknowledged to a client is in the logs of a majority; of that majority
this may be the only one left, so *everything* in the log is kept and applied, also the end of which the survivor never
heard that it was committed. A write in that end may have been acknowledged, or may have failed; nobody can know. What
was acknowledged by a majority that did not include this survivor is gone: `Findings` says what is known about that.

The new cluster has an id of its own, drawn at random, and the survivor a new member id. So members of the old cluster
that come back can never talk to it, vote in it, or be taken for members: there are not two halves of one cluster.

Nothing in the directory changes before everything new is built and durable beside it; then one decision replaces log,
state and owner together (`storage.install`), and what they replace stays aside until the next successful start. So the
command may be cut short anywhere and run again.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.base.tls import TlsFiles
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.members import ClusterIdentity, Member, found_cluster
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.chainfire.state_meta import META_NAME, decode_state_meta
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.quorum import VoteResult, joint_vote
from plasmacloud.storage.disk import Disk, OsDisk
from plasmacloud.storage.entry import EntryKind, HardState
from plasmacloud.storage.install import (
    FRESH_SUFFIX,
    LOG,
    OWNER,
    PENDING_NAME,
    STATE,
    Pending,
    Replacement,
    decide,
    finish_pending,
    free_aside,
    replacement,
)
from plasmacloud.storage.log_copy import InspectedLog, create_log, inspect_log
from plasmacloud.storage.small_files import write_file
from plasmacloud.storage.snapshot import SnapshotInfo, read_info, restore_state
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import write_error
from plasmacloud.storage.wal_format import Identity, LogMark

MAX_REVISION = 1 << 62
_PEERS = "peers.json"
_RESTORING = "restoring"  # only this and what a restore makes are in a directory being restored into
_CHUNK_BYTES = 256 * 1024
_SOME_FILES = TlsFiles.of(Path("DIR"), "CLIENT")
_COMMIT_BYTES = 32 * 1024 * 1024


class Owner(msgspec.Struct):
    """What ``member.json`` says, as far as it matters here. Format 1 lets the next start draw a new birth."""

    name: str
    cluster_id: str
    member_id: str
    incarnation: int
    format: int = 1

    @property
    def identity(self) -> Identity:
        """As numbers."""
        return Identity(int(self.cluster_id, 16), int(self.member_id, 16))


class Findings(msgspec.Struct, frozen=True):
    """What the survivor has, and what it cannot know."""

    data_dir: str
    name: str
    cluster_id: str
    member_id: str
    term: int
    applied_index: int
    commit_index: int
    last_index: int
    last_term: int
    uncertain_entries: int
    """Entries behind the known commit index: perhaps acknowledged, perhaps not. They are kept."""
    uncertain_with_writes: int
    torn_bytes: int
    last_write: str
    revision: int
    keys_history: int
    remains: str
    vanish: tuple[str, ...]
    alone_already: bool


class Plan(msgspec.Struct, frozen=True):
    """What the survivor becomes."""

    name: str
    peer: str
    token: str
    cluster: ClusterIdentity
    client: str
    """Where its clients find it, ``host:port``; empty: it has never said."""
    tls: bool
    """Whether they speak TLS with it."""

    @property
    def identity(self) -> Identity:
        """Of the new cluster's only member."""
        return Identity(self.cluster.cluster_id, self.cluster.members[0].id)


class Outcome(msgspec.Struct, frozen=True):
    """The recovered member."""

    cluster_id: str
    member_id: str
    index: int
    term: int
    revision: int
    kept_aside: tuple[str, ...]
    finished_earlier: bool = False


class Survivor:
    """A data directory at rest, locked. Made by `open_survivor`."""

    def __init__(self, data_dir: Path, owner: Owner, log: InspectedLog, disk: Disk) -> None:
        self.data_dir = data_dir
        self.owner = owner
        self._log = log
        self._disk = disk
        with self._state() as machine:
            self._check(machine)
            self.members: tuple[Member, ...] = machine.cluster.members
            self._conf = machine.cluster.conf
            self.findings = self._examine(machine)

    def could_lead_with(self, alive: Collection[int]) -> bool:
        """Whether this member and those are a majority of its cluster: then nothing is lost, and nobody recovers."""
        votes = dict.fromkeys((self.owner.identity.member_id, *alive), True)
        return joint_vote(self._conf.voters, self._conf.outgoing, votes) is VoteResult.WON

    def plan(self, *, name: str | None, peer: str | None) -> Plan:
        """Raises `ConfigError` when the survivor's address is not known and not given."""
        name = name or self.owner.name
        own = [member for member in self.members if member.id == self.owner.identity.member_id]
        if peer is None and own and own[0].peers:
            peer = str(own[0].peer)
        if peer is None:
            raise ConfigError(
                f"the peer address of {name} is not in its data yet", hint="give it with --listen-peer HOST:PORT"
            )
        token = f"recovered-{self._disk.random_u64():016x}"
        scheme, _, client = (own[0].client_urls[0] if own and own[0].client_urls else "").rpartition("://")
        return Plan(name, peer, token, found_cluster(f"{name}={peer}", token), client, scheme == "https")

    def build(self, plan: Plan) -> Outcome:
        """Build the new cluster's member beside the old one, and decide. `finish` has to follow. Blocks.

        Raises `StorageError`; nothing has changed then.
        """
        self._discard_unfinished()
        index, term, revision = self._build_state(plan)
        conf = ConfState(voters=frozenset([plan.identity.member_id]))
        hard_state = HardState(max(self._log.hard_state.term, term), 0, index)
        log_path = self.data_dir / (LOG + FRESH_SUFFIX)
        mark = LogMark(index, term, conf.encode())
        create_log(log_path, identity=plan.identity, mark=mark, hard_state=hard_state, disk=self._disk)
        self._write(OWNER + FRESH_SUFFIX, encode_owner(plan.name, plan.identity, self.owner.incarnation))
        aside = free_aside(self.data_dir, (OWNER, LOG, STATE, _PEERS, "recovery.json"), disk=self._disk)
        self._write(aside["recovery.json"], msgspec.json.format(msgspec.json.encode(self.findings)) + b"\n")
        parts = [replacement(item, aside=aside[item]) for item in (OWNER, LOG, STATE)]
        if _PEERS in self._disk.list_directory(self.data_dir):
            parts.append(Replacement(_PEERS, "", aside[_PEERS], keep=True))
        decide(self.data_dir, Pending("a recovery", tuple(parts)), disk=self._disk)
        kept = tuple(sorted([part.aside for part in parts] + [aside["recovery.json"]]))
        return Outcome(
            f"{plan.identity.cluster_id:x}", f"{plan.identity.member_id:x}", index, term, revision, kept
        )  # fmt: skip

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_file(self.data_dir / name, data, disk=self._disk, temporary="install.tmp")
        except OSError as error:
            raise write_error(f"writing {self.data_dir / name}", error) from error

    def _discard_unfinished(self) -> None:
        for name in (STATE, LOG, OWNER):
            self._disk.remove_tree(self.data_dir / (name + FRESH_SUFFIX))

    def _build_state(self, plan: Plan) -> tuple[int, int, int]:
        """Copy the state, apply the whole log to the copy, and make it that of the new cluster."""
        old, target = self.owner.identity, self.data_dir / (STATE + FRESH_SUFFIX)
        source = StateStore.open(self.data_dir / STATE, identity=old)
        try:
            with source.pin(max_age_s=float("inf")) as pinned:
                StateStore.build(target, pinned.chunks(_CHUNK_BYTES), pinned.meta(), identity=plan.identity)
        finally:
            source.close()
        store = StateStore.open(target, identity=plan.identity)
        try:
            machine = self._restore(store)
            for entry in self._log.entries(machine.applied_index + 1):
                machine.apply_entry(entry)
                if machine.unsaved_bytes > _COMMIT_BYTES:
                    _save(machine, store)
            begin_cluster(machine, plan.cluster)
            _save(machine, store)
            return machine.applied_index, machine.applied_term, machine.store.revision
        finally:
            store.close()

    @contextmanager
    def _state(self) -> Iterator[StateMachine]:
        if not (self.data_dir / STATE / "data.mdb").exists():
            raise StorageError(
                f"there is no state in {self.data_dir / STATE}", hint="is it the data directory of a member?"
            )
        store = StateStore.open(self.data_dir / STATE, identity=self.owner.identity)
        try:
            yield self._restore(store)
        finally:
            store.close()

    def _restore(self, store: StateStore) -> StateMachine:
        identity, conf = self.owner.identity, ConfState.decode(self._log.mark.conf)
        # Before its first checkpoint only the founders' ids are known; names and addresses come with the log.
        founders = [Member(id=member, name="", peers=()) for member in sorted(conf.all_voters())]
        founding = ClusterState(identity.cluster_id, founders)
        return StateMachine.restore(
            store, cluster_id=identity.cluster_id, member_id=identity.member_id, founding=founding
        )

    def _check(self, machine: StateMachine) -> None:
        log = self._log
        if not log.first_index - 1 <= machine.applied_index <= log.last_index:
            raise StorageError(
                f"the state is at index {machine.applied_index}, and the log covers {log.first_index} to "
                f"{log.last_index}: they are not from one member",
                hint="restore both from the same copy",
            )

    def _examine(self, machine: StateMachine) -> Findings:
        log, own = self._log, self.owner.identity.member_id
        applied, revision, members = machine.applied_index, machine.store.revision, machine.cluster.members
        commit = max(log.hard_state.commit, applied)
        first = max(commit + 1, log.first_index)
        uncertain = [entry.kind for entry in log.entries(first)] if first <= log.last_index else []
        names = {member.id: _label(member) for member in members}
        return Findings(
            data_dir=str(self.data_dir),
            name=self.owner.name,
            cluster_id=self.owner.cluster_id,
            member_id=self.owner.member_id,
            term=log.hard_state.term,
            applied_index=applied,
            commit_index=commit,
            last_index=log.last_index,
            last_term=log.last_term,
            uncertain_entries=len(uncertain),
            uncertain_with_writes=sum(1 for kind in uncertain if kind is not EntryKind.EMPTY),
            torn_bytes=log.torn.torn_bytes if log.torn else 0,
            last_write=_written_at(log.newest_segment),
            revision=revision,
            keys_history=len(machine.store.index.history),
            remains=names.get(own, f"{self.owner.name} ({own:x})"),
            vanish=tuple(sorted(label for member, label in names.items() if member != own)),
            alone_already=machine.cluster.conf.all_members() == {own} and not uncertain,
        )


@contextmanager
def open_survivor(data_dir: Path, *, disk: Disk | None = None) -> Iterator[Survivor | None]:
    """Lock the directory and look at it, changing nothing. None: a recovery that was cut short is now finished.

    Raises `DirectoryInUse` while the member runs, `ConfigError` when this is no data directory, `StorageError`.
    """
    disk = OsDisk() if disk is None else disk
    if not (data_dir / OWNER).exists() and not (data_dir / PENDING_NAME).exists():
        raise ConfigError(f"{data_dir} is not a data directory: it has no {OWNER}", hint="see --data-dir")
    with contextlib.ExitStack() as held:
        try:
            held.callback(disk.lock_directory(data_dir).release)
        except OSError as error:
            raise StorageError(f"locking {data_dir} failed: {error.strerror or error}") from error
        if finish_pending(data_dir, change_owner=True, disk=disk) is not None:
            yield None
            return
        owner = read_owner(data_dir)
        log = held.enter_context(inspect_log(data_dir / LOG, disk=disk))
        if log.identity != owner.identity:
            raise StorageError(f"{data_dir / OWNER} and the log in {data_dir / LOG} belong to different members")
        yield Survivor(data_dir, owner, log, disk)


def finish(data_dir: Path, *, disk: Disk | None = None) -> None:
    """Carry out what `Survivor.build` has decided, after `open_survivor` has let go of the directory."""
    finish_pending(data_dir, change_owner=True, disk=disk)


def read_owner(data_dir: Path) -> Owner:
    """Whose directory it is. Raises `ConfigError`."""
    try:
        owner = msgspec.json.decode((data_dir / OWNER).read_bytes(), type=Owner)
        _ = owner.identity
    except OSError as error:
        raise ConfigError(f"cannot read {data_dir / OWNER}: {error.strerror}") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ConfigError(f"{data_dir / OWNER} cannot be read: {error}") from error
    return owner


def encode_owner(name: str, identity: Identity, incarnation: int) -> bytes:
    """A ``member.json`` whose next start draws a new birth."""
    owner = Owner(name, f"{identity.cluster_id:x}", f"{identity.member_id:x}", incarnation)
    return msgspec.json.format(msgspec.json.encode(owner)) + b"\n"


def begin_cluster(machine: StateMachine, cluster: ClusterIdentity) -> None:
    """Make the state that of a new cluster: its data, and nobody of the old one."""
    machine.cluster = ClusterState.founded(cluster)
    machine.sessions = {}


def grow_commands(
    plan: Plan, data_dir: Path, vanished: Sequence[str], listen_client: str, certificates: TlsFiles | None = None
) -> list[str]:
    """What to type next: start the survivor, then one more member at a time.

    ``certificates``: those that the operator's own client shows and believes. The members' own are not known here: DIR
    stands for where they are, and ``--client-auth`` is the safe side.
    """
    serve_tls = " --tls DIR --client-auth" if plan.tls else ""
    client_tls = _client_flags(certificates or (_SOME_FILES if plan.tls else TlsFiles()))
    start = (
        f"plasma chainfire serve --name {shlex.quote(plan.name)} --data-dir {shlex.quote(str(data_dir))} "
        f"--listen-client {listen_client} --listen-peer {plan.peer} "
        f"--initial-cluster {shlex.quote(f'{plan.name}={plan.peer}')} --cluster-token {plan.token}{serve_tls}"
    )
    commands = [start]
    for label in vanished:
        name, _, rest = label.partition(" ")
        peer = rest.partition(" at ")[2] or "HOST:PORT"
        name = shlex.quote(name) if name != "(unnamed)" else "NAME"
        commands += [
            f"plasma chainfire member add {name} {peer} --endpoints {listen_client}{client_tls}",
            f"plasma chainfire serve --name {name} --data-dir NEW_EMPTY_DIR --listen-client HOST:PORT "
            f"--listen-peer {peer} --join {listen_client}{serve_tls}",
        ]
    return commands


def _client_flags(files: TlsFiles) -> str:
    given = (("cacert", files.authority), ("cert", files.certificate), ("key", files.key))
    return "".join(f" --{flag} {shlex.quote(str(path))}" for flag, path in given if path is not None)


# --- a new cluster from a snapshot -----------------------------------------------------------------------------------


def restore_member(
    snapshot: Path,
    data_dir: Path,
    *,
    name: str,
    cluster: ClusterIdentity,
    bump_revision: int = 0,
    disk: Disk | None = None,
) -> SnapshotInfo:
    """Make the data directory of one founder of a new cluster that begins with the snapshot's data.

    ``bump_revision``: how many revisions the new cluster begins above the snapshot's, which then all count as
    compacted (`_founded_meta`). Every founder does the same and ends with the same state, at the same index. Cut short,
    it begins anew when it is run again: only the last step makes the directory a member's. Raises `ConfigError` for a
    directory that has something in it, `DamagedSnapshot`, `StorageError`.
    """
    disk = OsDisk() if disk is None else disk
    identity = Identity(cluster.cluster_id, cluster.member(name).id)
    info = read_info(snapshot, disk=disk)
    newest = decode_state_meta(info.meta).revision
    if not 0 <= bump_revision <= MAX_REVISION - newest:
        raise ConfigError(
            f"--bump-revision {bump_revision} is out of range: the snapshot is at revision {newest}",
            hint="use about as many revisions as the cluster can have made since the snapshot, and some to spare",
        )
    if cluster.cluster_id == info.cluster_id:
        raise ConfigError(
            f"the new cluster would have the id of the old one, {info.cluster_id:x}",
            hint="choose a --cluster-token that was never used",
        )
    try:
        _claim(data_dir, disk)
        restore_state(
            snapshot,
            data_dir / STATE,
            identity=identity,
            disk=disk,
            change_meta=lambda info: {META_NAME: _founded_meta(info, cluster, bump_revision)},
        )
        mark = LogMark(info.index, info.term, ClusterState.founded(cluster).conf.encode())
        hard_state = HardState(info.term, 0, info.index)
        create_log(data_dir / LOG, identity=identity, mark=mark, hard_state=hard_state, disk=disk)
        write_file(data_dir / OWNER, encode_owner(name, identity, 0), disk=disk, temporary="member.tmp")
        disk.remove(data_dir / _RESTORING)
        disk.sync_directory(data_dir)
    except OSError as error:
        raise write_error(f"restoring into {data_dir}", error) from error
    return info


def _claim(data_dir: Path, disk: Disk) -> None:
    """Take an empty directory, or one that an earlier attempt has left."""
    disk.make_directory(data_dir)
    names = set(disk.list_directory(data_dir)) - {"LOCK"}
    if OWNER in names or (names and _RESTORING not in names and names != {"restoring.tmp"}):
        raise ConfigError(
            f"{data_dir} is not empty", hint="restore into a new directory; an old one is moved away by hand"
        )
    write_file(data_dir / _RESTORING, b"a snapshot is being restored into this directory\n", disk=disk,
               temporary="restoring.tmp")  # fmt: skip
    for name in (STATE, LOG):
        disk.remove_tree(data_dir / name)


def _founded_meta(info: SnapshotInfo, cluster: ClusterIdentity, bump_revision: int) -> bytes:
    """The snapshot's state as that of the new cluster.

    The old cluster may have gone on behind the snapshot. Whoever watched it, or has cached what it read, knows
    revisions that the new one would give out again, for other changes. Begun far enough above them, and with
    everything up to there compacted, it tells such clients that they have to read anew, instead of nothing.
    """
    state = decode_state_meta(info.meta)
    founded = msgspec.structs.replace(state, sessions={}, cluster=ClusterState.founded(cluster).encode())
    if bump_revision:
        revision = state.revision + bump_revision
        founded = msgspec.structs.replace(
            founded, revision=revision, compact_revision=revision, compaction_pending=True
        )
    return msgspec.msgpack.encode(founded)


def _save(machine: StateMachine, store: StateStore) -> None:
    checkpoint = machine.take_checkpoint()
    store.commit(checkpoint.puts, checkpoint.deletes, checkpoint.meta)
    machine.checkpoint_done()


def _label(member: Member) -> str:
    place = f" at {member.peer}" if member.peers else ""
    role = ", learner" if member.is_learner else ""
    return f"{member.name or '(unnamed)'} ({member.id:x}{role}){place}"


def _written_at(path: Path) -> str:
    """When the newest segment was last changed: by the file system's clock, so a hint and no proof."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(os.stat(path).st_mtime))
