"""`plasma ha backup`: what is written comes back, epochs never do, and a damaged file changes nothing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Plasma
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent.parent / "election"))
from server_rig import Rig, eventually, running_rig

from plasmacloud.election.backup import FORMAT, TABLES, Backup, DamagedBackup, decode, encode, plan_restore

ORDER = ("--operator", "ann", "--reason", "the database was lost")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("backup")) as rig:
        yield rig


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """An empty database on another server."""
    with running_rig(tmp_path_factory.mktemp("restored")) as rig:
        yield rig


def made(epochs: dict[str, int]) -> Backup:
    rows = [{"election": name, "epoch": number} for name, number in epochs.items()]
    tables = {table: rows if table == "leadership_state" else [] for table in TABLES}
    return Backup(format=FORMAT, version=1, created_at="2026-01-01T00:00:00Z", source={}, tables=tables)


def backend(rig: Rig) -> list[str]:
    return ["--backend", f"{rig.postgres.url()}?passfile={rig.postgres.passfile}"]


def test_there_and_back_into_an_empty_database(plasma: Plasma, rig: Rig, other: Rig, tmp_path: Path) -> None:
    leader, follower = rig.pair()
    election = leader.status()["election"]
    assert (
        plasma("ha", "failover", "trigger", "--server", leader.url, "--operator", "a", "--reason", "b").exit_code == 0
    )
    eventually("it leads", lambda: follower.leads)
    file = tmp_path / "ha.backup"
    created = plasma("ha", "backup", "create", str(file), *backend(rig), "-o", "json")
    assert created.exit_code == 0, created.stderr
    assert json.loads(created.stdout)["elections"][election] == 2
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.part"))
    dry = plasma("ha", "backup", "restore", str(file), *backend(other), "--dry-run", "-o", "json")
    assert dry.exit_code == 0
    assert json.loads(dry.stdout)["elections"][0]["restored_epoch"] == 1002
    assert other.sql("SELECT to_regclass('leader_epochs')") == [(None,)]
    restored = plasma("ha", "backup", "restore", str(file), *backend(other), *ORDER)
    assert restored.exit_code == 0, restored.stderr
    same = "SELECT operator, action, outcome, details->>'reason' FROM ha_audit WHERE action = 'failover' ORDER BY id"
    assert other.sql(same) == rig.sql(same)
    epochs = "SELECT epoch, holder_id FROM leader_epochs WHERE election = $1 ORDER BY epoch"
    assert other.sql(epochs, election) == [*rig.sql(epochs, election), (1002, "")]
    server = other.server("n1", election=election)
    eventually("it leads", lambda: server.leads)
    assert server.status()["epoch"] == "1.1003"
    again = plasma("ha", "backup", "restore", str(file), *backend(other), *ORDER)
    assert again.exit_code == 3
    assert "would be forgotten" in again.stderr
    server.process.stop()
    forced = plasma("ha", "backup", "restore", str(file), *backend(other), *ORDER, "--force", "--epoch-margin", "5")
    assert forced.exit_code == 0, forced.stderr
    assert other.sql("SELECT epoch, holder_id FROM leadership_state WHERE election = $1", election) == [(1008, "")]
    assert other.sql(same) == rig.sql(same)


def test_a_running_election_is_not_restored_over(plasma: Plasma, rig: Rig, tmp_path: Path) -> None:
    leader, _ = rig.pair()
    file = tmp_path / "ha.backup"
    assert plasma("ha", "backup", "create", str(file), *backend(rig)).exit_code == 0
    nowhere = plasma("ha", "backup", "create", str(tmp_path / "none" / "x"), *backend(rig))
    assert nowhere.exit_code == 7
    refused = plasma("ha", "backup", "restore", str(file), *backend(rig), *ORDER)
    assert refused.exit_code == 3
    assert "stop its servers first" in refused.stderr
    assert leader.leads


def test_what_is_refused_before_anything_is_opened(plasma: Plasma, rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "ha.backup"
    file.write_bytes(encode(made({"jobs": 3})))
    assert plasma("ha", "backup", "restore", str(file), *backend(rig)).exit_code == 2
    file.write_bytes(file.read_bytes().replace(b"jobs", b"hobs"))
    damaged = plasma("ha", "backup", "restore", str(file), *backend(rig), "--dry-run")
    assert damaged.exit_code == 7
    assert "checksum" in damaged.stderr
    file.write_text("no backup")
    assert plasma("ha", "backup", "restore", str(file), *backend(rig), "--dry-run").exit_code == 7
    assert plasma("ha", "backup", "create", str(tmp_path / "x"), "--backend", "etcd://127.0.0.1:1").exit_code == 6
    gone = plasma("ha", "backup", "create", str(tmp_path / "x"), "--backend", "postgres://a@127.0.0.1:1/a")
    assert gone.exit_code == 5
    assert "connection refused" in gone.stderr
    wrong = f"postgres://plasma:wrong@127.0.0.1:{rig.postgres.port}/postgres"
    denied = plasma("ha", "backup", "create", str(tmp_path / "x"), "--backend", wrong)
    assert denied.exit_code == 6
    assert "wrong@" not in denied.stderr
    assert not (tmp_path / "x").exists()


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 99)),
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 99)),
    st.integers(0, 9),
)
def test_epochs_only_go_up(saved: dict[str, int], current: dict[str, int], margin: int) -> None:
    for plan in plan_restore(made(saved), current, set(), margin=margin):
        assert plan.restored_epoch >= max(saved[plan.election], current.get(plan.election, 0)) + margin
        assert bool(plan.problem) == (current.get(plan.election, 0) > saved[plan.election])


@given(st.binary(max_size=200))
def test_any_other_bytes_are_no_backup(data: bytes) -> None:
    with pytest.raises(DamagedBackup):
        decode(data)


def test_every_changed_byte_is_noticed() -> None:
    data = encode(made({"jobs": 3}))
    assert decode(data).elections() == {"jobs": 3}
    for at in range(len(data)):
        if chr(data[at]).isspace():
            continue
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(DamagedBackup):
            decode(changed)
