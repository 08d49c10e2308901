"""`plasma chainfire recover` and `plasma chainfire snapshot …` on data directories and files."""

import json
import socket
import sys
from pathlib import Path

import pytest
from cli_runner import Plasma

from plasmacloud.base.errors import ExitCode
from plasmacloud.chainfire.recovery import read_owner
from plasmacloud.chainfire.state_meta import mark_of_state
from plasmacloud.storage.log_copy import create_log
from plasmacloud.storage.snapshot import write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal import Wal

sys.path.insert(0, str(Path(__file__).parent.parent / "chainfire"))
from survivor import SEGMENT_BYTES, make_survivor


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(create_log.__kwdefaults__, "segment_bytes", SEGMENT_BYTES)


@pytest.fixture
def survivor(tmp_path: Path) -> Path:
    make_survivor(tmp_path / "n1", saved=30, commit=40, last=55)
    return tmp_path / "n1"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    cluster = make_survivor(tmp_path / "old", saved=30, commit=30, last=30)
    store = StateStore.open(tmp_path / "old" / "state")
    write_snapshot(
        store, tmp_path / "backup", cluster_id=cluster.cluster_id, describe=lambda meta: mark_of_state(dict(meta))
    )
    store.close()
    return tmp_path / "backup"


# --- recover ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_everything_and_changes_nothing(plasma: Plasma, survivor: Path) -> None:
    before = (survivor / "member.json").read_bytes()
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), "--dry-run")
    assert result.exit_code == 0, result.output
    assert "index 55, term 3" in result.stdout
    assert "index 40" in result.stdout
    assert "n2 (" in result.stdout
    assert "15 entries behind index 40 (15 with commands) may or may not have been acknowledged" in result.stderr
    assert "writes behind index 55 that the lost members acknowledged without this one are lost" in result.stderr
    assert "dry run" in result.stderr
    assert (survivor / "member.json").read_bytes() == before
    body = json.loads(plasma("chainfire", "recover", "--data-dir", str(survivor), "--dry-run", "-o", "json").stdout)
    assert body["done"] is False
    assert body["found"]["last_index"] == 55
    assert len(body["commands"]) == 5


def test_without_a_terminal_it_refuses_to_go_on_unasked(plasma: Plasma, survivor: Path) -> None:
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), input="n1\n")
    assert result.exit_code == ExitCode.CONFIG
    assert "--yes" in result.stderr
    assert not (survivor / "state.new").exists()
    assert not list(survivor.glob("*.before-*"))


@pytest.mark.parametrize(("answer", "done"), [("n1\n", True), ("yes\n", False), ("", False)])
def test_it_asks_for_the_name_of_the_member(
    plasma: Plasma, survivor: Path, monkeypatch: pytest.MonkeyPatch, answer: str, done: bool
) -> None:
    import click.testing

    monkeypatch.setattr(click.testing._NamedTextIOWrapper, "isatty", lambda _: True, raising=False)
    old = read_owner(survivor)
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), input=answer)
    assert (result.exit_code == 0) is done
    assert (read_owner(survivor) != old) is done


def test_recover_says_what_to_type_next_and_can_be_repeated(plasma: Plasma, survivor: Path) -> None:
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), "--yes")
    assert result.exit_code == 0, result.output
    owner = read_owner(survivor)
    assert f"cluster {owner.cluster_id}" in result.stderr
    assert "plasma chainfire serve --name n1" in result.stdout
    assert "plasma chainfire member add n2 127.0.0.1:12" in result.stdout
    assert "wal.before-1" in result.stdout
    again = plasma("chainfire", "recover", "--data-dir", str(survivor), "--yes")
    assert again.exit_code == 0
    assert "nothing was changed" in again.stderr
    assert read_owner(survivor) == owner


def test_recover_in_json(plasma: Plasma, survivor: Path) -> None:
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), "--yes", "-o", "json")
    body = json.loads(result.stdout)
    owner = read_owner(survivor)
    assert body["done"] is True
    assert body["new_cluster"]["cluster_id"] == owner.cluster_id
    assert body["index"] == 55
    assert "state.before-1" in body["kept_aside"]


def test_recover_refuses_a_running_member_and_foreign_directories(
    plasma: Plasma, survivor: Path, tmp_path: Path
) -> None:
    wal = Wal.open(survivor / "wal", identity=read_owner(survivor).identity)
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), "--yes")
    assert result.exit_code == ExitCode.CONFIG
    assert "in use" in result.stderr
    wal.close()
    (tmp_path / "empty").mkdir()
    assert plasma("chainfire", "recover", "--data-dir", str(tmp_path / "empty")).exit_code == ExitCode.CONFIG


def test_recover_says_whom_it_asked(plasma: Plasma, survivor: Path) -> None:
    result = plasma("chainfire", "recover", "--data-dir", str(survivor), "--dry-run")
    assert "asked n2  no answer at 127.0.0.1:12 within 1.50s" in result.stdout
    assert "asked n3  no answer at 127.0.0.1:13" in result.stdout
    body = json.loads(plasma("chainfire", "recover", "--data-dir", str(survivor), "--dry-run", "-o", "json").stdout)
    assert [(other["name"], other["alive"]) for other in body["others"]] == [("n2", False), ("n3", False)]


def test_recover_refuses_while_a_majority_could_serve(plasma: Plasma, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as alive:
        members = f"n1=127.0.0.1:11,n2=127.0.0.1:{alive.getsockname()[1]},n3=127.0.0.1:13"
        make_survivor(tmp_path / "n1", saved=30, commit=40, last=55, members=members)
        before = (tmp_path / "n1" / "member.json").read_bytes()
        command = ("chainfire", "recover", "--data-dir", str(tmp_path / "n1"))
        refused = plasma(*command, "--yes")
        assert refused.exit_code == ExitCode.CONFIG
        assert "the majority is not lost: n2 answered, and with n1 that is a majority" in refused.stderr
        assert "start n1 as always" in refused.stderr
        assert "asked n2  something listens at its peer address" in refused.stdout
        shown = plasma(*command, "--dry-run")
        assert shown.exit_code == 0
        assert "would be refused" in shown.stderr
        assert (tmp_path / "n1" / "member.json").read_bytes() == before
        forced = plasma(*command, "--yes", "--force")
        assert forced.exit_code == 0, forced.output
        assert (tmp_path / "n1" / "member.json").read_bytes() != before


def test_one_of_five_that_answers_is_no_majority(plasma: Plasma, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as alive:
        port = alive.getsockname()[1]
        members = ",".join(f"n{n}=127.0.0.1:{port if n == 2 else 10 + n}" for n in range(1, 6))
        make_survivor(tmp_path / "n1", saved=30, commit=40, last=55, members=members)
        result = plasma("chainfire", "recover", "--data-dir", str(tmp_path / "n1"), "--yes")
        assert result.exit_code == 0, result.output
        assert "asked n2  something listens" in result.stdout


# --- snapshots -------------------------------------------------------------------------------------------------------


def test_snapshot_status(plasma: Plasma, saved: Path) -> None:
    result = plasma("chainfire", "snapshot", "status", str(saved))
    assert result.exit_code == 0, result.output
    head, row = result.stdout.splitlines()
    assert head.split()[:3] == ["HASH", "REVISION", "TOTAL"]
    assert row.split()[1:3] == ["29", "28"]
    body = json.loads(plasma("chainfire", "snapshot", "status", str(saved), "-o", "json").stdout)
    assert (body["revision"], body["total_keys"], body["index"]) == (29, 28, 30)
    assert body["size_bytes"] == saved.stat().st_size


def test_a_damaged_snapshot_exits_7(plasma: Plasma, saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[len(data) // 2] ^= 1
    saved.write_bytes(data)
    result = plasma("chainfire", "snapshot", "status", str(saved))
    assert result.exit_code == ExitCode.STORAGE
    assert "snapshot" in result.stderr


def test_snapshot_restore_says_how_to_start(plasma: Plasma, saved: Path, tmp_path: Path) -> None:
    members = "a=127.0.0.1:31,b=127.0.0.1:32"
    flags = ("--initial-cluster", members, "--cluster-token", "fresh")
    ids = set()
    for name in "ab":
        directory = str(tmp_path / name)
        result = plasma("chainfire", "snapshot", "restore", str(saved), "--name", name, "--data-dir", directory, *flags)
        assert result.exit_code == 0, result.output
        assert f"--initial-cluster {members} --cluster-token fresh" in result.stdout
        ids.add(read_owner(tmp_path / name).cluster_id)
    assert len(ids) == 1
    bumped = ("--name", "a", "--data-dir", str(tmp_path / "bumped"), "--bump-revision", "1000", *flags)
    result = plasma("chainfire", "snapshot", "restore", str(saved), *bumped, "-o", "json")
    assert json.loads(result.stdout)["revision"] == 1029
    again = plasma("chainfire", "snapshot", "restore", str(saved), "--name", "a", "--data-dir", directory, *flags)
    assert again.exit_code == ExitCode.CONFIG
    assert "not empty" in again.stderr
