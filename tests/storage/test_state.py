"""The state store: checkpoints are whole or absent, reads run beside them, damage is refused."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.base.errors import StorageError
from plasmacloud.storage.state import MAX_KEY_BYTES, CorruptState, StateStore
from plasmacloud.storage.wal_errors import DiskFull, WriteFailed, WrongIdentity
from plasmacloud.storage.wal_format import Identity

SMALL_MAP_BYTES = 1 << 20


def records(first: int, count: int, size_bytes: int = 100) -> list[tuple[bytes, bytes]]:
    return [(b"%012d" % i, random.Random(i).randbytes(size_bytes)) for i in range(first, first + count)]


def test_a_checkpoint_comes_back_after_reopening(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "state")
    assert store.meta("applied") is None
    assert store.get(b"a") is None
    assert list(store.scan()) == []
    store.commit([(b"b", b"2"), (b"a", b""), (b"c", b"3")], [], {"applied": b"7", "conf": b"x"})
    store.commit([(b"d", b"4")], [b"b", b"never there"], {"applied": b"9"})
    store.close()
    store = StateStore.open(tmp_path / "state")
    assert list(store.scan()) == [(b"a", b""), (b"c", b"3"), (b"d", b"4")]
    assert (store.meta("applied"), store.meta("conf")) == (b"9", b"x")
    assert store.get_many([b"d", b"b", b"a"]) == [b"4", None, b""]
    assert store.count() == 3
    store.close()
    store.close()


def test_deletes_come_before_puts(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path)
    store.commit([(b"k", b"old")], [], {})
    store.commit([(b"k", b"new")], [b"k"], {})
    assert store.get(b"k") == b"new"
    store.close()


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.binary(max_size=3)), max_size=40),
    st.lists(st.binary(min_size=1, max_size=3), max_size=10),
    st.binary(max_size=3),
    st.none() | st.binary(max_size=3),
)
@settings(max_examples=50, deadline=None)
def test_scans_agree_with_a_sorted_dictionary(
    puts: list[tuple[bytes, bytes]], deletes: list[bytes], start: bytes, end: bytes | None
) -> None:
    path = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    directory = path / f"plasma-state-{os.getpid()}"
    try:
        store = StateStore.open(directory, map_bytes=SMALL_MAP_BYTES)
        store.commit(puts, [], {})
        store.commit([], deletes, {})
        expected = {key: value for key, value in puts if key not in deletes}
        assert list(store.scan(start, end)) == [
            (key, expected[key]) for key in sorted(expected) if key >= start and (end is None or key < end)
        ]
        store.close()
    finally:
        shutil.rmtree(directory)


def test_a_scan_crosses_its_chunks_and_sees_what_was_committed_meanwhile(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path)
    pairs = records(0, 3000)
    store.commit(pairs, [], {})
    scan = store.scan()
    seen = [next(scan) for _ in range(10)]
    store.commit([(b"zzz", b"new")], [pairs[2500][0]], {})
    seen += scan
    assert seen == pairs[:2500] + pairs[2501:] + [(b"zzz", b"new")]
    assert list(store.scan(pairs[511][0], pairs[513][0])) == pairs[511:513]
    store.close()


def test_the_map_grows_when_it_is_full_and_the_commit_is_whole(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, map_bytes=SMALL_MAP_BYTES)
    pairs = records(0, 40_000)
    store.commit(pairs, [], {"applied": b"1"})
    assert store.size_bytes() > 4 * SMALL_MAP_BYTES
    assert 0 < store.in_use_bytes() <= store.size_bytes()
    assert list(store.scan()) == pairs
    store.close()
    store = StateStore.open(tmp_path, map_bytes=SMALL_MAP_BYTES)  # smaller than the file
    assert store.count() == 40_000
    store.close()


def test_reads_during_commits_and_map_growth_see_whole_checkpoints(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, map_bytes=SMALL_MAP_BYTES)
    store.commit([(b"first", b"0"), (b"last", b"0")], [], {"applied": b"0"})
    failures: list[BaseException] = []

    def write() -> None:
        try:
            for i in range(1, 60):
                number = b"%d" % i
                filler = records(i * 1000, 300, 200)
                store.commit([(b"first", number), *filler, (b"last", number)], [], {"applied": number})
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        first, last = store.get_many([b"first", b"last"])
        assert first == last is not None
        seen.add(first)
        assert int(store.meta("applied") or b"-1") >= int(first)
    writer.join()
    assert failures == []
    assert len(seen) > 1
    assert store.size_bytes() > SMALL_MAP_BYTES  # it did grow
    store.close()


COMMIT_FOR_EVER = """
import os, sys
from pathlib import Path
from plasmacloud.storage.state import StateStore
store = StateStore.open(Path(sys.argv[1]), map_bytes=1 << 20)
number = int(store.meta("applied") or b"0")
while True:
    number += 1
    puts = [(b"%d/%d" % (number, i), b"%d" % number * 20) for i in range(number % 200)]
    deletes = [b"%d/%d" % (number - 3, i) for i in range((number - 3) % 200)] if number > 3 else []
    store.commit(puts + [(b"now", b"%d" % number)], deletes, {"applied": b"%d" % number, "again": b"%d" % number})
    os.write(1, b"%d\\n" % number)
"""


def test_after_kill_9_the_store_equals_one_checkpoint_not_older_than_the_last_acknowledged(tmp_path: Path) -> None:
    for round_number in range(6):
        process = subprocess.Popen([sys.executable, "-c", COMMIT_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(40 + 17 * round_number):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            if line.endswith(b"\n"):
                acknowledged = int(line)
        process.wait(30)
        process.stdout.close()
        store = StateStore.open(tmp_path, map_bytes=SMALL_MAP_BYTES)
        found = int(store.meta("applied") or b"0")
        assert found in (acknowledged, acknowledged + 1)
        assert store.meta("again") == b"%d" % found
        expected = {b"now": b"%d" % found}
        for number in range(max(found - 2, 1), found + 1):
            expected |= {b"%d/%d" % (number, i): b"%d" % number * 20 for i in range(number % 200)}
        assert dict(store.scan()) == expected
        store.close()


def test_keys_have_1_to_511_bytes_and_a_refused_commit_changes_nothing(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path)
    store.commit([(b"k" * MAX_KEY_BYTES, b"v")], [], {})
    for bad in (b"", b"k" * (MAX_KEY_BYTES + 1)):
        with pytest.raises(StorageError, match="1 to 511 bytes"):
            store.commit([(b"other", b"v"), (bad, b"v")], [], {})
    assert store.count() == 1
    store.commit([(b"other", b"v")], [], {})
    store.close()


def test_a_store_is_bound_to_its_member(tmp_path: Path) -> None:
    StateStore.open(tmp_path, identity=Identity(1, 2)).close()
    StateStore.open(tmp_path, identity=Identity(1, 2)).close()
    with pytest.raises(WrongIdentity, match="belongs to"):
        StateStore.open(tmp_path, identity=Identity(1, 3))


def filled(path: Path) -> Sequence[tuple[bytes, bytes]]:
    store = StateStore.open(path)
    pairs = records(0, 2000)
    store.commit(pairs, [], {"applied": b"1"})
    store.close()
    return pairs


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data.mdb").write_bytes(random.Random(1).randbytes(100_000))
    with pytest.raises(CorruptState, match="not a usable state file"):
        StateStore.open(tmp_path / "a")
    env = lmdb.open(str(tmp_path / "b"), max_dbs=2)
    with env.begin(write=True) as txn:
        txn.put(b"k", b"v", db=env.open_db(b"kv", txn=txn))
    env.close()
    with pytest.raises(CorruptState, match="not written by PlasmaCloud"):
        StateStore.open(tmp_path / "b")


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_refused_instead_of_killing_the_process(tmp_path: Path, part: float) -> None:
    filled(tmp_path)
    file = tmp_path / "data.mdb"
    os.truncate(file, int(file.stat().st_size * part))
    with pytest.raises(CorruptState):
        StateStore.open(tmp_path)


def test_an_altered_record_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    pairs = filled(tmp_path)
    file = tmp_path / "data.mdb"
    data = bytearray(file.read_bytes())
    at = data.find(pairs[777][1])
    data[at + 50] ^= 4
    file.write_bytes(data)
    store = StateStore.open(tmp_path)
    assert store.get(pairs[776][0]) == pairs[776][1]
    with pytest.raises(CorruptState, match="wrong checksum"):
        store.get(pairs[777][0])
    with pytest.raises(CorruptState, match="wrong checksum"):
        list(store.scan())
    store.close()


LIMITED_SPACE = """
import resource, signal, sys
from pathlib import Path
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import DiskFull
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = StateStore.open(Path(sys.argv[1]))
store.commit([(b"k", b"1")], [], {"applied": b"1"})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
big = [(b"%09d" % i, bytes(100)) for i in range(20_000)]
try:
    store.commit(big, [], {"applied": b"2"})
except DiskFull as error:
    print("full", error)
assert store.meta("applied") == b"1" and store.count() == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.commit(big, [], {"applied": b"2"})
assert store.count() == 20_001
print("done")
"""


def test_a_full_disk_refuses_the_checkpoint_and_the_next_one_succeeds(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED_SPACE, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
    assert done.stdout.startswith("full")


def test_little_address_space_is_enough(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from plasmacloud.storage.state import StateStore\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "store = StateStore.open(Path(sys.argv[1]))\n"
        "store.commit([(b'k', b'v')], [], {}); print(store.get(b'k'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "b'v'\n", done.stderr


def test_a_failing_disk_ends_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = StateStore.open(tmp_path)
    store.commit([(b"k", b"1")], [], {})

    def fail(*_: object) -> bool:
        raise lmdb.DiskError("mdb_txn_commit: Input/output error", 5)

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "_try_commit", fail)
        with pytest.raises(WriteFailed) as caught:
            store.commit([(b"k", b"2")], [], {})
        assert not isinstance(caught.value, DiskFull)
    with pytest.raises(WriteFailed):  # never tried again
        store.commit([(b"k", b"3")], [], {})
    assert store.get(b"k") == b"1"
    store.close()
    with pytest.raises(WriteFailed):
        store.commit([], [], {})
