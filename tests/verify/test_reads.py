"""Stale reads are found, by revision and by content; reads that overlap a write are free to show it or not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_handmade import MS, op

from plasmacloud.verify.history import Outcome
from plasmacloud.verify.reads import ReadOp, check_reads


def read(
    invoke_ms: float, return_ms: float, revision: int, *, key: str = "none", value: str | None = None, client: int = 0
) -> ReadOp:
    return ReadOp(
        trial=1,
        client=client,
        seq=1,
        node="n1",
        key=key,
        invoke_ns=round(invoke_ms * MS),
        return_ns=round(return_ms * MS),
        outcome=Outcome.OK,
        revision=revision,
        value=value,
    )


def test_a_read_that_shows_what_was_acknowledged() -> None:
    result = check_reads([op("a", 0, 1, revision=5)], [read(2, 3, 5, key="a", value="value-of-a")])
    assert (result.compared, result.findings) == (1, [])


def test_a_read_below_an_acknowledged_revision_is_stale() -> None:
    (finding,) = check_reads([op("a", 0, 1, revision=5)], [read(2, 3, 4)]).findings
    assert "shows revision 4, after a was acknowledged at revision 5" in finding


def test_a_read_that_began_before_the_acknowledgement_may_miss_the_write() -> None:
    assert check_reads([op("a", 0, 5, revision=5)], [read(4, 9, 4)]).findings == []


@pytest.mark.parametrize("value", [None, "something else"])
def test_a_read_that_claims_a_new_revision_and_has_not_the_data(value: str | None) -> None:
    (finding,) = check_reads([op("a", 0, 1, revision=5)], [read(2, 3, 9, key="a", value=value)]).findings
    assert "under a" in finding


def test_reads_do_not_go_back_behind_each_other() -> None:
    (finding,) = check_reads([], [read(0, 1, 7), read(2, 3, 6, client=1)]).findings
    assert "had shown revision 7" in finding
    assert check_reads([], [read(0, 2, 7), read(1, 3, 6, client=1)]).findings == []


def test_unacknowledged_writes_and_refused_reads_prove_nothing() -> None:
    refused = ReadOp(1, 0, 1, "n1", "a", 2 * MS, 3 * MS, Outcome.FAIL, error="no leader")
    result = check_reads([op("a", 0, 1, "info")], [refused, read(4, 5, 1, key="a")])
    assert (result.compared, result.findings) == (1, [])


def test_a_read_has_no_unknown_outcome() -> None:
    with pytest.raises(ValueError, match="no unknown outcome"):
        ReadOp(1, 0, 1, "n1", "a", 2, 3, Outcome.INFO)
    with pytest.raises(ValueError, match="before it was invoked"):
        ReadOp(1, 0, 1, "n1", "a", 4, 3, Outcome.FAIL)


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8), st.integers(1, 20)), max_size=10)


@given(spans, spans)
def test_stale_is_exactly_what_comparing_every_pair_finds(
    writes: list[tuple[int, int, int]], looks: list[tuple[int, int, int]]
) -> None:
    history = [op(f"k{i}", at, at + took, revision=rev, client=i) for i, (at, took, rev) in enumerate(writes)]
    reads = [read(at, at + took, rev, client=i) for i, (at, took, rev) in enumerate(looks)]
    before = [(o.return_ns, o.revision) for o in history] + [(r.return_ns, r.revision) for r in reads]
    stale = [r for r in reads if any(end < r.invoke_ns and revision > r.revision for end, revision in before)]
    assert len(check_reads(history, reads).findings) == len(stale)
