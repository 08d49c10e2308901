"""One order of writes, for clients and on nodes."""

from hypothesis import given
from hypothesis import strategies as st
from verify_handmade import op, reading, record

from plasmacloud.verify.order import check_real_time_order, check_same_everywhere


def test_overlapping_writes_may_be_ordered_either_way() -> None:
    assert check_real_time_order([op("a", 0, 10, revision=9), op("b", 5, 15, revision=8, client=1)]).findings == []


def test_a_later_write_with_a_smaller_revision() -> None:
    (finding,) = check_real_time_order([op("a", 0, 1, revision=9), op("b", 2, 3, revision=8, client=1)]).findings
    assert "b (revision 8)" in finding
    assert "a (revision 9)" in finding


def test_two_writes_at_one_revision() -> None:
    (finding,) = check_real_time_order([op("a", 0, 9, revision=4), op("b", 1, 8, revision=4, client=1)]).findings
    assert "revision 4" in finding


def test_unacknowledged_writes_have_no_place_in_the_order() -> None:
    result = check_real_time_order([op("a", 0, 1, revision=9), op("b", 2, 3, "info"), op("c", 2, 3, "fail", client=1)])
    assert result.findings == []
    assert result.compared == 1


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10), st.integers(1, 40)), max_size=14))
def test_real_time_agrees_with_comparing_every_pair(spans: list[tuple[int, int, int]]) -> None:
    ops = [
        op(f"k{i}", start, start + length, revision=revision, client=i)
        for i, (start, length, revision) in enumerate(spans)
    ]
    contradicted = {
        late.key for early in ops for late in ops if early.return_ns < late.invoke_ns and early.revision > late.revision
    }
    shared = len(ops) - len({o.revision for o in ops})
    findings = check_real_time_order(ops).findings
    assert len([f for f in findings if "was sent after" in f]) == len(contradicted)
    assert len([f for f in findings if "both acknowledged" in f]) == shared


def test_nodes_agree() -> None:
    held = [record("a", 5), record("b", 6)]
    result = check_same_everywhere([reading({"n1": held, "n2": list(reversed(held)), "n3": held})])
    assert result.findings == []
    assert result.compared == 2


def test_a_key_on_one_node_only_and_a_different_revision() -> None:
    result = check_same_everywhere([reading({"n1": [record("a", 5)], "n2": [record("a", 6), record("b", 7)]})])
    assert len(result.findings) == 2
    assert "revision 5" in result.findings[0]
    assert "n2 holds b, n1 does not" in result.findings[1]
