"""The log against a plain list, and the details that the list does not show."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raft_cluster import ListLog, log_of

from plasmacloud.raft.errors import StateLost
from plasmacloud.raft.log import RaftLog
from plasmacloud.storage.entry import Compacted, Entry, EntryKind, Unavailable
from plasmacloud.storage.entry_codec import make_entry


def entry(term: int, index: int, data: bytes = b"") -> Entry:
    return make_entry(term, index, EntryKind.COMMANDS, data)


def log(*terms: int, commit: int = 0, applied: int = 0, start: int = 0, start_term: int = 0) -> RaftLog:
    entries = [entry(term, at) for at, term in enumerate(terms, start + 1)]
    return RaftLog(ListLog(entries, start=start, start_term=start_term), commit=commit, applied=applied)


@settings(deadline=None)
@given(st.data())
def test_reads_like_a_list_whatever_is_durable(data: st.DataObject) -> None:
    """Appends, truncations, commits and writes in any order; every view agrees with a list of terms."""
    stable = ListLog()
    eager = data.draw(st.booleans(), label="queued writes are readable")
    raft_log = RaftLog(stable, commit=0, applied=0)
    model: list[int] = []
    writes: list[list[Entry]] = []
    term = 1
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["append", "replace", "take", "written", "commit", "apply"]))
        if action == "append":
            count = data.draw(st.integers(1, 3))
            new = [entry(term, len(model) + 1 + at) for at in range(count)]
            raft_log.append(new)
            model += [term] * count
        elif action == "replace":
            term += 1
            keep = data.draw(st.integers(raft_log.commit, len(model)))
            raft_log.append([entry(term, keep + 1)])
            model[keep:] = [term]
        elif action == "take":
            batch = raft_log.take_unwritten()
            raft_log.open_write()
            writes.append(batch)
            if eager:
                stable.write(batch)
        elif action == "written" and writes:
            batch = writes.pop(0)
            if not eager:
                stable.write(batch)
            raft_log.written()
        elif action == "commit":
            raft_log.commit_to(data.draw(st.integers(0, len(model))))
        elif action == "apply":
            for each in raft_log.take_committed(1 << 20, raft_log.commit):
                assert stable.term(each.index) == each.term == model[each.index - 1]
                raft_log.applied_to(each.index)
        assert raft_log.last_index == len(model)
        assert raft_log.last_term == (model[-1] if model else 0)
        assert [raft_log.term(at) for at in range(1, len(model) + 1)] == model
        assert raft_log.applied <= min(raft_log.commit, raft_log.durable)
        if model:
            lo = data.draw(st.integers(1, len(model)))
            found = raft_log.entries(lo, len(model) + 1, 1 << 20)
            assert [each.term for each in found] == model[lo - 1 :]
            some = raft_log.entries(lo, len(model) + 1, 70)
            assert some == found[: max(1, 70 // found[0].size_bytes)]


def test_bounds() -> None:
    raft_log = log(2, 3, start=5, start_term=1, applied=5)
    assert [raft_log.term(index) for index in (5, 6, 7)] == [1, 2, 3]
    with pytest.raises(Compacted):
        raft_log.term(4)
    with pytest.raises(Unavailable):
        raft_log.term(8)
    with pytest.raises(Compacted):
        raft_log.entries(5, 7, 100)
    assert not raft_log.matches(4, 1)
    assert not raft_log.matches(8, 3)
    assert raft_log.matches(5, 1)


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [(9, 9, (7, 5)), (7, 4, (6, 4)), (7, 3, (3, 2)), (7, 1, (2, 1)), (2, 5, (2, 1)), (7, 0, (0, 0))],
)
def test_last_not_above_skips_whole_terms(index: int, term: int, expected: tuple[int, int]) -> None:
    assert log(1, 1, 2, 4, 4, 4, 5).last_not_above(index, term) == expected


def test_last_not_above_stops_at_compacted_entries() -> None:
    assert log(7, 7, start=5, start_term=6, applied=5).last_not_above(7, 3) == (4, 0)


def test_committed_entries_are_never_replaced() -> None:
    raft_log = log(1, 1, commit=2)
    with pytest.raises(AssertionError):
        raft_log.append([entry(2, 2)])


def test_the_commit_never_falls_and_never_passes_the_end() -> None:
    raft_log = log(1, 1, commit=1)
    assert not raft_log.commit_to(0)
    assert raft_log.commit == 1
    with pytest.raises(AssertionError):
        raft_log.commit_to(3)


def test_a_log_and_a_state_that_do_not_meet_are_refused() -> None:
    with pytest.raises(StateLost):
        log(1, 1, applied=3)
    with pytest.raises(StateLost):
        log(1, 1, start=5, start_term=1, applied=4)


def test_an_applied_state_beyond_the_recorded_commit_is_committed() -> None:
    assert log(1, 1, 1, commit=1, applied=2).commit == 2


def test_first_new_finds_the_conflict() -> None:
    raft_log = log(1, 1, 2)
    assert raft_log.first_new(log_of(1, 1)) == 2
    assert raft_log.first_new(log_of(1, 1, 3)) == 2
    assert raft_log.first_new(log_of(1, 1, 2, 2)) == 3
    assert raft_log.first_new([]) == 0


def test_restore_starts_over_and_ignores_writes_to_the_old_log() -> None:
    stable = ListLog()
    raft_log = RaftLog(stable, commit=0, applied=0)
    raft_log.append(log_of(1, 1, 1))
    stable.write(raft_log.take_unwritten())
    raft_log.open_write()
    raft_log.restore(10, 4)
    assert (raft_log.first_index, raft_log.last_index, raft_log.commit, raft_log.applied) == (11, 10, 10, 10)
    assert raft_log.term(10) == 4
    with pytest.raises(Compacted):
        raft_log.term(3)
    raft_log.append([entry(5, 11)])
    raft_log.written()  # the old write
    assert raft_log.durable == 10
    assert not raft_log.has_committed(raft_log.commit)
    batch = raft_log.take_unwritten()
    raft_log.open_write()
    stable.reset(10, 4)
    stable.write(batch)
    raft_log.written()
    assert (raft_log.durable, raft_log.term(10), raft_log.term(11)) == (11, 4, 5)
