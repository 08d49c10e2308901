"""Settings, identities and the data directory: what is refused, and how it is said."""

import itertools
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from plasmacloud.base.address import parse_address
from plasmacloud.base.errors import ConfigError, ExitCode, StorageError
from plasmacloud.chainfire.config import ServerConfig, make_config
from plasmacloud.chainfire.datadir import DataDir, next_life, open_data_dir, read_place
from plasmacloud.chainfire.members import found_cluster
from plasmacloud.rpc.peer_wire import MAX_EARLIER
from plasmacloud.storage.wal_errors import DirectoryInUse

THREE = "n1=127.0.0.1:2380,n2=127.0.0.1:2480,n3=127.0.0.1:2580"


def config(**changes: object) -> ServerConfig:
    settings: dict[str, object] = {
        "name": "n1",
        "data_dir": Path("unused"),
        "listen_client": "127.0.0.1:2379",
        "listen_peer": "127.0.0.1:2380",
        "initial_cluster": THREE,
    }
    return make_config(**{**settings, **changes})  # type: ignore[arg-type]


def test_founders_agree_on_the_ids_whatever_the_order_of_the_list() -> None:
    shuffled = ",".join(reversed(THREE.split(",")))
    assert found_cluster(THREE, "t") == found_cluster(shuffled, "t")


def test_another_token_is_another_cluster() -> None:
    one, other = found_cluster(THREE, "t"), found_cluster(THREE, "u")
    assert one.cluster_id != other.cluster_id
    assert {m.id for m in one.members}.isdisjoint(m.id for m in other.members)


@pytest.mark.parametrize(
    ("initial", "complaint"),
    [
        ("n1", "name=host:port"),
        ("n1=127.0.0.1", "not of the form host:port"),
        ("n1=127.0.0.1:2380,n1=127.0.0.1:2381", "names 'n1' twice"),
        ("n1=127.0.0.1:2380,n2=127.0.0.1:2380", "same peer address"),
        (",", "empty"),
        ("n1=127.0.0.1:99999", "impossible port"),
    ],
)
def test_a_wrong_initial_cluster_is_explained(initial: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        found_cluster(initial, "t")


def test_a_name_outside_the_cluster_is_answered_with_the_names_inside() -> None:
    with pytest.raises(ConfigError) as caught:
        config(name="n9")
    assert "n1, n2, n3" in str(caught.value.hint)
    assert caught.value.exit_code == ExitCode.CONFIG


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"listen_peer": "127.0.0.1:2379"}, "are both"),
        ({"election_timeout_s": 0.01}, "out of range"),
        ({"heartbeat_interval_s": 0.2}, "does not fit"),
        ({"listen_client": "localhost"}, "--listen-client"),
        ({"advertise_client": ("nonsense",)}, "--advertise-client"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        config(**changes)


def test_without_an_initial_cluster_the_member_is_alone() -> None:
    assert [m.name for m in config(initial_cluster="").cluster.members] == ["n1"]


def test_heartbeats_and_elections_are_whole_numbers_of_ticks() -> None:
    made = config(election_timeout_s=0.3, heartbeat_interval_s=0.05)
    assert (made.tick_s, made.election_ticks, made.heartbeat_ticks) == (pytest.approx(0.01), 30, 5)


@pytest.mark.parametrize(
    ("text", "printed"),
    [("10.0.0.1:80", "10.0.0.1:80"), ("http://host:1/", "host:1"), ("[::1]:2379", "[::1]:2379")],
)
def test_addresses_are_read_as_people_write_them(text: str, printed: str) -> None:
    assert str(parse_address(text)) == printed


@pytest.mark.parametrize("text", ["", "host", ":80", "::1:80", "host:", "host:0", "host:1e3", "host:²", "http://h/x:1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_address(text)


def open_it(path: Path, now_ns: int = 1, member_id: int = 7, cluster_id: int = 9) -> DataDir:
    """Begin a life and end it."""
    data = open_data_dir(path, name="n1", cluster_id=cluster_id, member_id=member_id, now_ns=now_ns)
    data.close()
    return data


def with_log(data: DataDir) -> DataDir:
    """As the write-ahead log leaves it."""
    data.wal.mkdir(exist_ok=True)
    (data.wal / "0000000001.wal").touch()
    return data


def test_every_start_is_a_new_incarnation_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    first = open_it(tmp_path / "d", now_ns=1000)
    second = open_it(tmp_path / "d", now_ns=5)
    assert second.incarnation > first.incarnation


def test_a_restored_old_directory_still_gets_a_new_incarnation(tmp_path: Path) -> None:
    open_it(tmp_path / "d", now_ns=1000)
    old = (tmp_path / "d" / "member.json").read_bytes()
    newer = open_it(tmp_path / "d", now_ns=2000)
    (tmp_path / "d" / "member.json").write_bytes(old)
    assert open_it(tmp_path / "d", now_ns=3000).incarnation > newer.incarnation


def test_the_lives_of_one_directory_form_a_chain_and_share_their_birth(tmp_path: Path) -> None:
    lives = [with_log(open_it(tmp_path / "d", now_ns=now)).life for now in (1000, 2000, 5, 3000)]
    assert lives[0].earlier == ()
    for before, after in itertools.pairwise(lives):
        assert after.earlier == (before.incarnation, *before.earlier)
        assert after.incarnation > before.incarnation
    assert len({life.birth for life in lives}) == 1
    assert lives[0].birth > 0


def test_a_life_that_was_refused_leaves_no_trace_but_its_number(tmp_path: Path) -> None:
    first = with_log(open_it(tmp_path / "d"))
    refused = open_it(tmp_path / "d")
    refused.withdraw()
    for _ in range(2):
        after = open_it(tmp_path / "d")
        after.withdraw()
        assert after.life.earlier == (first.incarnation,)
        assert after.incarnation > refused.incarnation
        assert after.life.birth == first.life.birth


def test_the_list_of_lives_has_an_end(tmp_path: Path) -> None:
    life = next_life(None, has_log=False, now_ns=1)
    for n in range(MAX_EARLIER + 10):
        life = next_life(life, has_log=True, now_ns=n + 2)
    assert life.earlier == tuple(range(MAX_EARLIER + 10, 10, -1))


def test_two_lives_that_continue_the_same_one_differ_even_when_the_clock_stands_still(tmp_path: Path) -> None:
    with_log(open_it(tmp_path / "d", now_ns=1000))
    old = (tmp_path / "d" / "member.json").read_bytes()
    one = open_it(tmp_path / "d", now_ns=1000)
    (tmp_path / "d" / "member.json").write_bytes(old)
    assert open_it(tmp_path / "d", now_ns=1000).incarnation != one.incarnation


def test_another_directory_has_another_birth(tmp_path: Path) -> None:
    assert open_it(tmp_path / "d").life.birth != open_it(tmp_path / "e").life.birth


def test_a_directory_without_its_log_is_born_again(tmp_path: Path) -> None:
    """What member.json says is worth nothing when the promises are gone."""
    before = with_log(open_it(tmp_path / "d"))
    shutil.rmtree(before.wal)
    after = open_it(tmp_path / "d")
    assert after.life.birth != before.life.birth
    assert after.incarnation > before.incarnation
    assert after.life.earlier == ()


def test_a_directory_of_the_first_format_gets_a_birth_and_keeps_it(tmp_path: Path) -> None:
    old = {"format": 1, "name": "n1", "cluster_id": "9", "member_id": "7", "incarnation": 1000}
    (tmp_path / "member.json").write_bytes(msgspec.json.encode(old))
    (tmp_path / "wal").mkdir()
    (tmp_path / "wal" / "0000000001.wal").touch()
    first = open_it(tmp_path)
    assert first.incarnation > 1000
    assert open_it(tmp_path).life.birth == first.life.birth > 0


def test_a_directory_in_use_is_refused_and_no_life_begins_beside_the_first(tmp_path: Path) -> None:
    first = open_data_dir(tmp_path, name="n1", cluster_id=9, member_id=7, now_ns=1)
    before = (tmp_path / "member.json").read_bytes()
    with pytest.raises(DirectoryInUse, match="in use by process"):
        open_it(tmp_path, now_ns=2)
    assert (tmp_path / "member.json").read_bytes() == before
    first.close()
    assert open_it(tmp_path, now_ns=2).incarnation > first.incarnation


def test_what_a_crash_interrupted_is_finished_before_the_directory_is_judged(tmp_path: Path) -> None:
    before = with_log(open_it(tmp_path / "d"))
    before.wal.rename(before.path / "wal.aside")

    def repair(path: Path) -> None:
        (path / "wal.aside").rename(path / "wal")

    after = open_data_dir(tmp_path / "d", name="n1", cluster_id=9, member_id=7, now_ns=1, repair=repair)
    after.close()
    assert after.life.birth == before.life.birth


@pytest.mark.parametrize("other", [{"member_id": 8}, {"cluster_id": 8}])
def test_the_directory_of_another_member_or_cluster_is_refused_untouched(tmp_path: Path, other: dict[str, int]) -> None:
    open_it(tmp_path / "d")
    before = (tmp_path / "d" / "member.json").read_bytes()
    with pytest.raises(ConfigError, match="belongs to member n1"):
        open_it(tmp_path / "d", **other)
    assert (tmp_path / "d" / "member.json").read_bytes() == before


def test_a_directory_of_something_else_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(ConfigError, match="not a ChainFire data directory"):
        open_it(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["letters.txt"]


def test_a_crash_before_the_first_rename_does_not_lock_the_directory(tmp_path: Path) -> None:
    (tmp_path / "member.tmp").write_text("{")
    assert open_it(tmp_path).incarnation == 1


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\x01", b'{"format": "x"}'])
def test_a_damaged_identity_is_refused_with_advice(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "member.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"member\.json cannot be read"):
        open_it(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_it(tmp_path)
    identity = msgspec.json.decode((tmp_path / "member.json").read_bytes())
    (tmp_path / "member.json").write_bytes(msgspec.json.encode({**identity, "format": 99}))
    with pytest.raises(ConfigError, match="data format 99"):
        open_it(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_place_is_a_storage_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        open_it(tmp_path / "d")


def test_a_path_below_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        open_it(tmp_path / "file" / "d")


def test_an_identity_with_an_id_that_is_none_is_refused_with_advice(tmp_path: Path) -> None:
    open_it(tmp_path)
    identity = msgspec.json.decode((tmp_path / "member.json").read_bytes())
    for damaged in ({"cluster_id": "not hex"}, {"member_id": ""}):
        (tmp_path / "member.json").write_bytes(msgspec.json.encode({**identity, **damaged}))
        with pytest.raises(ConfigError, match=r"member\.json cannot be read"):
            read_place(tmp_path)


def test_an_identity_that_cannot_be_read_at_all_is_named(tmp_path: Path) -> None:
    (tmp_path / "member.json").mkdir()
    with pytest.raises(ConfigError, match=r"member\.json cannot be read: Is a directory"):
        read_place(tmp_path)
