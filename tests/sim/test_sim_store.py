"""The simulated store behaves as the real one does, and what a crash leaves of a commit is all or nothing."""

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.sim.disk import PowerLoss, SimDisk
from plasmacloud.sim.store import SimStores, Tables, damage
from plasmacloud.storage.pinned import seal
from plasmacloud.storage.record_store import RecordStore
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_errors import CorruptState, DiskFull, WrongIdentity
from plasmacloud.storage.wal_format import Identity

PATH = Path("/data/state")
ME = Identity(1, 2)

keys = st.binary(min_size=1, max_size=3)
commits = st.lists(
    st.tuples(st.dictionaries(keys, st.binary(max_size=5), max_size=5), st.lists(keys, max_size=3)), max_size=6
)


def contents(store: RecordStore) -> Any:
    with store.pin() as pinned:
        chunks = [record for chunk in pinned.chunks(10) for record in chunk]
        count, meta = pinned.records, dict(pinned.meta())
    return list(store.scan()), list(store.scan(b"\x40", b"\xc0")), chunks, count, meta, store.meta("n")


@settings(max_examples=30, deadline=None)
@given(commits)
def test_it_answers_like_the_real_store(tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    real: RecordStore = StateStore.open(tmp_path_factory.mktemp("state"), map_bytes=1 << 20, identity=ME)
    simulated = SimStores(SimDisk(random.Random(1))).open(PATH, identity=ME)
    for number, (puts, deletes) in enumerate(changes):
        for store in (real, simulated):
            store.commit(sorted(puts.items()), deletes, {"n": b"%d" % number})
        assert contents(real) == contents(simulated)
        asked = [*deletes, *puts]
        assert real.get_many(asked) == simulated.get_many(asked)
    real.close()


def test_a_commit_survives_a_crash_whole_or_not_at_all() -> None:
    found = set()
    for cut in range(6):
        disk = SimDisk(random.Random(cut))
        store = SimStores(disk).open(PATH, identity=ME)
        disk.cut_after(cut)
        acknowledged = False
        try:
            store.commit([(b"a", b"1"), (b"b", b"2")], [], {"m": b"3"})
            acknowledged = True
        except PowerLoss:
            pass
        disk.restart(power_lost=True)
        again = SimStores(disk).open(PATH, identity=ME)
        state = (again.get(b"a"), again.get(b"b"), again.meta("m"))
        assert not acknowledged or state == (b"1", b"2", b"3")
        found.add((acknowledged, state))
    nothing, everything = (None, None, None), (b"1", b"2", b"3")
    assert found == {(False, nothing), (False, everything), (True, everything)}


def test_it_moves_with_its_directory_and_knows_its_owner() -> None:
    disk = SimDisk(random.Random(1))
    stores = SimStores(disk)
    stores.build(Path("/data/state.new"), [[(b"k", seal(b"k", b"v"))]], {"m": b"1"}, identity=ME)
    disk.rename(Path("/data/state.new"), PATH)
    assert stores.open(PATH, identity=ME).get(b"k") == b"v"
    with pytest.raises(WrongIdentity):
        stores.open(PATH, identity=Identity(1, 3))


def test_a_full_disk_refuses_a_commit_that_may_be_repeated() -> None:
    disk = SimDisk(random.Random(1))
    store = SimStores(disk).open(PATH)
    disk.capacity_bytes = 10
    with pytest.raises(DiskFull):
        store.commit([(b"k", b"v" * 100)], [], {})
    assert store.get(b"k") is None
    disk.capacity_bytes = None
    store.commit([(b"k", b"v" * 100)], [], {})
    assert store.get(b"k") == b"v" * 100


def test_an_altered_record_is_noticed() -> None:
    disk = SimDisk(random.Random(1))
    store = SimStores(disk).open(PATH)
    store.commit([(b"k", b"v")], [], {})
    tables = disk.find(PATH / "data.mdb")
    assert isinstance(tables, Tables)
    assert damage(tables, random.Random(1))
    with pytest.raises(CorruptState):
        store.get(b"k")
    with pytest.raises(CorruptState), store.pin() as pinned:
        list(pinned.chunks(10))
