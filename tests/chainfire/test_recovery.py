"""One survivor of a lost majority goes on alone, and snapshots become new clusters; cut short anywhere."""

import json
import sys
from pathlib import Path

import pytest
from survivor import SEGMENT_BYTES, THREE, keys, make_survivor, start

from plasmacloud.base.errors import ConfigError, StorageError
from plasmacloud.chainfire.datadir import open_data_dir
from plasmacloud.chainfire.members import found_cluster
from plasmacloud.chainfire.mvcc.refusals import RpcRefusal
from plasmacloud.chainfire.recovery import (
    Findings,
    Plan,
    finish,
    grow_commands,
    open_survivor,
    read_owner,
    restore_member,
)
from plasmacloud.chainfire.state_meta import decode_state_meta, mark_of_state
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.proto.rpc_pb2 import PutRequest, RangeRequest, RangeResponse
from plasmacloud.storage.entry import HardState
from plasmacloud.storage.install import BadInstall, finish_pending, forget_asides
from plasmacloud.storage.log_copy import create_log
from plasmacloud.storage.snapshot import DamagedSnapshot, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DirectoryInUse, WrongIdentity
from plasmacloud.storage.wal_format import Identity

sys.path.insert(0, str(Path(__file__).parent.parent / "storage"))
from tree_disk import Stopped, TreeDisk, copy_tree


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs that are quick to make and to read."""
    monkeypatch.setitem(create_log.__kwdefaults__, "segment_bytes", SEGMENT_BYTES)


def recover(directory: Path, disk: TreeDisk | None = None) -> Plan | None:
    """The command without its questions. None: an earlier run was finished."""
    with open_survivor(directory, disk=disk) as survivor:
        if survivor is None or survivor.findings.alone_already:
            return None
        plan = survivor.plan(name=None, peer=None)
        survivor.build(plan)
    finish(directory, disk=disk)
    return plan


def findings(directory: Path) -> Findings:
    with open_survivor(directory) as survivor:
        assert survivor is not None
        return survivor.findings


def files(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file() and path.name not in ("LOCK", "lock.mdb"))
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


# --- recovery --------------------------------------------------------------------------------------------------------


def test_the_survivor_keeps_everything_in_its_log_and_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    old = make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    plan = recover(tmp_path / "n1")
    assert plan is not None
    assert plan.identity.cluster_id != old.cluster_id
    assert plan.peer == "127.0.0.1:11"
    machine, wal, store = start(tmp_path / "n1", plan.cluster, "n1")
    assert keys(machine) == {b"key-%06d" % i for i in range(3, 56)}
    assert [member.name for member in machine.cluster.members] == ["n1"]
    assert machine.cluster.conf == ConfState(voters=frozenset([plan.identity.member_id]))
    assert machine.sessions == {}
    assert (wal.log_mark.index, wal.log_mark.term, wal.last_index()) == (55, 3, 55)
    assert wal.log_mark.conf == machine.cluster.conf.encode()
    assert wal.hard_state == HardState(4, 0, 55)
    store.close()
    wal.close()


def test_what_was_there_is_shown_before_anything_changes(tmp_path: Path) -> None:
    old = make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    before = files(tmp_path / "n1")
    found = findings(tmp_path / "n1")
    assert files(tmp_path / "n1") == before
    assert (found.applied_index, found.commit_index, found.last_index, found.last_term) == (30, 40, 55, 3)
    assert (found.uncertain_entries, found.uncertain_with_writes) == (15, 15)
    assert found.cluster_id == f"{old.cluster_id:x}"
    assert found.remains == f"n1 ({old.members[0].id:x}) at 127.0.0.1:11"
    assert [label.split()[0] for label in found.vanish] == ["n2", "n3"]
    assert found.last_write.endswith("UTC")
    assert not found.alone_already


def test_the_new_member_starts_with_the_printed_flags_and_a_new_birth(tmp_path: Path) -> None:
    old = make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    before = open_data_dir(
        tmp_path / "n1", name="n1", cluster_id=old.cluster_id, member_id=old.members[0].id, now_ns=100
    )
    before.close()
    plan = recover(tmp_path / "n1")
    assert plan is not None
    [serve, *others] = grow_commands(plan, tmp_path / "n1", ["n2 (5) at 127.0.0.1:12"], "127.0.0.1:21")
    assert f"--cluster-token {plan.token}" in serve
    assert found_cluster("n1=127.0.0.1:11", plan.token) == plan.cluster
    assert others[0] == "plasma chainfire member add n2 127.0.0.1:12 --endpoints 127.0.0.1:21"
    assert others[1].endswith("--listen-peer 127.0.0.1:12 --join 127.0.0.1:21")
    with pytest.raises(ConfigError, match="belongs to member"):
        open_data_dir(tmp_path / "n1", name="n1", cluster_id=old.cluster_id, member_id=old.members[0].id, now_ns=200)
    after = open_data_dir(
        tmp_path / "n1", name="n1", cluster_id=plan.identity.cluster_id, member_id=plan.identity.member_id, now_ns=50
    )
    assert after.life.birth != before.life.birth
    assert after.incarnation > before.incarnation
    after.close()


def test_the_old_parts_stay_aside_until_a_successful_start(tmp_path: Path) -> None:
    old = make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    (tmp_path / "n1" / "peers.json").write_text("{}")
    recover(tmp_path / "n1")
    identity = Identity(old.cluster_id, old.members[0].id)
    wal = Wal.open(tmp_path / "n1" / "wal.before-1", identity=identity)
    assert (wal.last_index(), wal.hard_state.commit) == (55, 40)
    wal.close()
    store = StateStore.open(tmp_path / "n1" / "state.before-1", identity=identity)
    assert decode_state_meta({"chainfire": store.meta("chainfire") or b""}).applied_index == 30
    store.close()
    saved = json.loads((tmp_path / "n1" / "recovery.json.before-1").read_text())
    assert saved["last_index"] == 55
    assert not (tmp_path / "n1" / "peers.json").exists()
    assert len(forget_asides(tmp_path / "n1")) == 5
    assert {path.name for path in (tmp_path / "n1").iterdir()} == {"LOCK", "member.json", "wal", "state"}


def test_a_member_that_never_saved_its_state_is_recovered_from_its_log_alone(tmp_path: Path) -> None:
    make_survivor(tmp_path / "n1", saved=0, commit=2, last=9, checkpoint=False)
    with open_survivor(tmp_path / "n1") as survivor:
        assert survivor is not None
        assert len(survivor.findings.vanish) == 2
        with pytest.raises(ConfigError, match="peer address of n1 is not in its data"):
            survivor.plan(name=None, peer=None)
        plan = survivor.plan(name="other", peer="127.0.0.1:99")
        survivor.build(plan)
    finish(tmp_path / "n1")
    machine, wal, store = start(tmp_path / "n1", plan.cluster, "other")
    assert keys(machine) == {b"key-%06d" % i for i in range(3, 10)}
    store.close()
    wal.close()


def test_a_running_member_is_left_alone(tmp_path: Path) -> None:
    old = make_survivor(tmp_path / "n1", saved=3, commit=4, last=5)
    identity = Identity(old.cluster_id, old.members[0].id)
    wal = Wal.open(tmp_path / "n1" / "wal", identity=identity)
    with pytest.raises(DirectoryInUse), open_survivor(tmp_path / "n1"):
        pass
    wal.close()
    data = open_data_dir(
        tmp_path / "n1", name="n1", cluster_id=identity.cluster_id, member_id=identity.member_id, now_ns=1
    )
    with pytest.raises(DirectoryInUse), open_survivor(tmp_path / "n1"):
        pass
    data.close()


def test_a_recovered_member_has_nothing_to_recover(tmp_path: Path) -> None:
    make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    assert recover(tmp_path / "n1") is not None
    assert findings(tmp_path / "n1").alone_already


@pytest.mark.parametrize("missing", ["member.json", "state", "wal"])
def test_something_else_than_a_data_directory_is_refused(tmp_path: Path, missing: str) -> None:
    make_survivor(tmp_path / "n1", saved=3, commit=4, last=5)
    (tmp_path / "n1" / missing).rename(tmp_path / "gone")
    with pytest.raises((ConfigError, StorageError)), open_survivor(tmp_path / "n1"):
        pass


@pytest.mark.parametrize("power", ["process killed", "power lost"])
def test_a_recovery_cut_short_anywhere_is_not_begun_or_can_be_finished(tmp_path: Path, power: str) -> None:
    old = make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    member, image = old.members[0].id, tmp_path / "image"
    outcomes = set()
    for stop_at in range(1, 1000):
        copy_tree(tmp_path / "n1", image)
        disk = TreeDisk(stop_at)
        plan = None
        try:
            plan = recover(image, disk)
        except Stopped:
            pass
        finally:
            disk.die()
        if power == "power lost":
            disk.lose_names()
        decided = (image / "install.json").exists() and (image / "member.json.new").exists()
        if decided:  # neither the old member nor the new one starts now
            with pytest.raises(BadInstall, match="not finished"):
                finish_pending(image)
        again = recover(image, TreeDisk())
        owner = read_owner(image).identity
        assert owner.cluster_id != old.cluster_id
        with pytest.raises(WrongIdentity):
            Wal.open(image / "wal", identity=Identity(old.cluster_id, member))
        wal = Wal.open(image / "wal", identity=owner)
        assert (wal.last_index(), wal.hard_state) == (55, HardState(4, 0, 55))
        wal.close()
        store = StateStore.open(image / "state", identity=owner)
        meta = decode_state_meta({"chainfire": store.meta("chainfire") or b""})
        assert (meta.applied_index, meta.sessions) == (55, {})
        assert store.count() == 53
        store.close()
        assert len(list(image.glob("wal.before-*"))) == 1
        outcomes.add("finished" if again is None else "again")
        if plan is not None:
            break
    assert stop_at > 20
    assert outcomes == {"finished", "again"}


# --- snapshots of a member, and new clusters from them ---------------------------------------------------------------


def saved_snapshot(directory: Path) -> tuple[Path, int]:
    old = make_survivor(directory / "old", saved=30, commit=30, last=30)
    store = StateStore.open(directory / "old" / "state")
    info = write_snapshot(
        store, directory / "snapshot", cluster_id=old.cluster_id, describe=lambda meta: mark_of_state(dict(meta))
    )
    store.close()
    assert (info.index, info.term) == (30, 3)
    assert ConfState.decode(info.conf).voters == {member.id for member in old.members}
    return directory / "snapshot", old.cluster_id


def test_every_member_of_the_new_cluster_begins_with_the_same_state(tmp_path: Path) -> None:
    snapshot, old_cluster = saved_snapshot(tmp_path)
    cluster = found_cluster("a=127.0.0.1:31,b=127.0.0.1:32,c=127.0.0.1:33", "new")
    assert cluster.cluster_id != old_cluster
    hashes = set()
    for name in "abc":
        restore_member(snapshot, tmp_path / name, name=name, cluster=cluster)
        data = open_data_dir(
            tmp_path / name, name=name, cluster_id=cluster.cluster_id, member_id=cluster.member(name).id, now_ns=9
        )
        data.close()
        machine, wal, store = start(tmp_path / name, cluster, name)
        hashes.add(machine.state_hash())
        assert keys(machine) == {b"key-%06d" % i for i in range(3, 31)}
        assert [m.name for m in machine.cluster.members] == sorted("abc", key=lambda n: cluster.member(n).id)
        assert ConfState.decode(wal.log_mark.conf) == machine.cluster.conf
        assert (wal.last_index(), wal.hard_state) == (30, HardState(3, 0, 30))
        store.close()
        wal.close()
    assert len(hashes) == 1


def test_a_restored_cluster_may_begin_above_every_revision_that_anybody_has_seen(tmp_path: Path) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    cluster = found_cluster("a=127.0.0.1:31,b=127.0.0.1:32", "new")
    hashes = set()
    for name in "ab":
        restore_member(snapshot, tmp_path / name, name=name, cluster=cluster, bump_revision=1_000_000)
        machine, wal, store = start(tmp_path / name, cluster, name)
        mvcc = machine.store
        assert (mvcc.revision, mvcc.compact_revision) == (1_000_029, 1_000_029)
        for revision in (29, 1_000_000, 1_000_028):
            with pytest.raises(RpcRefusal, match="compacted"):
                mvcc.range(RangeRequest(key=b"key-000005", revision=revision))
        while not mvcc.compact_step(1000):
            pass
        assert keys(machine) == {b"key-%06d" % i for i in range(3, 31)}
        (kept,) = RangeResponse.FromString(mvcc.range(RangeRequest(key=b"key-000005"))).kvs
        assert (kept.value, kept.mod_revision, kept.version) == (b"value-5" * 10, 4, 1), "data are as they were"
        mvcc.put(PutRequest(key=b"key-000005", value=b"new"))
        assert mvcc.revision == 1_000_030
        hashes.add(machine.state_hash())
        store.close()
        wal.close()
    assert len(hashes) == 1


@pytest.mark.parametrize("bump", [-1, 1 << 62])
def test_revisions_are_not_bumped_out_of_range(tmp_path: Path, bump: int) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    cluster = found_cluster("a=127.0.0.1:31", "new")
    with pytest.raises(ConfigError, match="out of range"):
        restore_member(snapshot, tmp_path / "a", name="a", cluster=cluster, bump_revision=bump)
    assert not (tmp_path / "a").exists()


def test_a_directory_with_something_in_it_is_not_restored_into(tmp_path: Path) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    cluster = found_cluster("a=127.0.0.1:31", "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    for directory in (tmp_path / "full", tmp_path / "old"):
        before = files(directory)
        with pytest.raises(ConfigError, match="not empty"):
            restore_member(snapshot, directory, name="a", cluster=cluster)
        assert files(directory) == before


def test_the_old_cluster_is_not_made_a_second_time(tmp_path: Path) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    with pytest.raises(ConfigError, match="id of the old one"):
        restore_member(snapshot, tmp_path / "again", name="n1", cluster=found_cluster(THREE, "old"))
    assert not (tmp_path / "again").exists()


def test_a_restore_cut_short_anywhere_begins_anew(tmp_path: Path) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    cluster = found_cluster("a=127.0.0.1:31", "new")
    for stop_at in range(1, 1000):
        target = tmp_path / f"a{stop_at}"
        disk = TreeDisk(stop_at)
        finished = False
        try:
            restore_member(snapshot, target, name="a", cluster=cluster, disk=disk)
            finished = True
        except Stopped:
            pass
        finally:
            disk.die()
        disk.lose_names()
        if not (target / "member.json").exists():
            if target.exists() and any(target.iterdir()):
                with pytest.raises(ConfigError, match="not empty"):
                    open_data_dir(target, name="a", cluster_id=1, member_id=1, now_ns=1)
            restore_member(snapshot, target, name="a", cluster=cluster, disk=TreeDisk())
        machine, wal, store = start(target, cluster, "a")
        assert machine.applied_index == 30
        store.close()
        wal.close()
        if finished:
            break
    assert stop_at > 10


def test_a_damaged_snapshot_makes_no_member(tmp_path: Path) -> None:
    snapshot, _ = saved_snapshot(tmp_path)
    data = bytearray(snapshot.read_bytes())
    data[-1] ^= 1
    snapshot.write_bytes(data)
    cluster = found_cluster("a=127.0.0.1:31", "new")
    with pytest.raises(DamagedSnapshot):
        restore_member(snapshot, tmp_path / "a", name="a", cluster=cluster)
    assert not (tmp_path / "a" / "member.json").exists()
