"""Data directories of members that do not run, made by hand."""

from collections.abc import Sequence
from pathlib import Path

from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.members import ClusterIdentity, Publication, found_cluster
from plasmacloud.chainfire.recovery import encode_owner
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest
from plasmacloud.storage.entry import Entry, EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity, LogMark

THREE = "n1=127.0.0.1:11,n2=127.0.0.1:12,n3=127.0.0.1:13"
SEGMENT_BYTES = 65536


def puts(cluster: ClusterIdentity, first: int, last: int, term: int = 3) -> list[Entry]:
    """Entry i puts key i; the first entry of all is a leader's empty one, the second publishes a member."""
    origin = cluster.members[0].id
    found = []
    for index in range(first, last + 1):
        if index == 1:
            found.append(make_entry(term, index, EntryKind.EMPTY, b""))
            continue
        body = PutRequest(key=b"key-%06d" % index, value=b"value-%d" % index * 10).SerializeToString()
        command = (int(CommandKind.PUT), body)
        if index == 2:
            command = (
                int(CommandKind.PUBLISH),
                Publication(origin, ("http://127.0.0.1:21",), name="n1", birth=5).encode(),
            )
        found.append(make_entry(term, index, EntryKind.COMMANDS, encode_batch(origin, 1, index - 1, [command])))
    return found


def make_survivor(
    directory: Path, *, saved: int, commit: int, last: int, members: str = THREE, checkpoint: bool = True
) -> ClusterIdentity:
    """Member n1: ``saved`` entries in its state, ``commit`` known to be committed, ``last`` in its log."""
    cluster = found_cluster(members, "old")
    identity = Identity(cluster.cluster_id, cluster.members[0].id)
    directory.mkdir(parents=True)
    entries = puts(cluster, 1, last)
    founding = ClusterState.founded(cluster)
    wal = Wal.open(
        directory / "wal",
        identity=identity,
        segment_bytes=SEGMENT_BYTES,
        initial_mark=LogMark(0, 0, founding.conf.encode()),
    )
    wal.append_blocking(HardState(4, identity.member_id, commit), entries)
    wal.close()
    store = StateStore.open(directory / "state", identity=identity, map_bytes=1 << 24)
    machine = StateMachine.restore(
        store, cluster_id=cluster.cluster_id, member_id=identity.member_id, founding=founding
    )
    if checkpoint:
        apply(machine, entries[:saved])
        save(machine, store)
    store.close()
    (directory / "member.json").write_bytes(encode_owner("n1", identity, 77))
    return cluster


def apply(machine: StateMachine, entries: Sequence[Entry]) -> None:
    """Apply them in order."""
    for entry in entries:
        machine.apply_entry(entry)


def save(machine: StateMachine, store: StateStore) -> None:
    """A checkpoint."""
    checkpoint = machine.take_checkpoint()
    store.commit(checkpoint.puts, checkpoint.deletes, checkpoint.meta)
    machine.checkpoint_done()


def start(directory: Path, cluster: ClusterIdentity, name: str) -> tuple[StateMachine, Wal, StateStore]:
    """As a start opens it; close both."""
    identity = Identity(cluster.cluster_id, cluster.member(name).id)
    wal = Wal.open(directory / "wal", identity=identity)
    store = StateStore.open(directory / "state", identity=identity, map_bytes=1 << 24)
    machine = StateMachine.restore(store, cluster_id=cluster.cluster_id, member_id=identity.member_id)
    assert wal.log_mark.index <= machine.applied_index <= wal.last_index()
    return machine, wal, store


def keys(machine: StateMachine) -> set[bytes]:
    """All living keys."""
    return set(machine.store.index.living(b"", b""))
