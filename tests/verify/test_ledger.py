"""The ledger finds exactly what is wrong, and names it."""

from hypothesis import given
from hypothesis import strategies as st
from verify_handmade import op, reading, record

from plasmacloud.verify.ledger import Disagreement, check_ledger


def kinds(history, readings) -> list[Disagreement]:
    return [finding.kind for finding in check_ledger(history, readings).findings]


def test_everything_acknowledged_is_everywhere() -> None:
    history = [op("a", 0, 1, revision=5), op("b", 2, 3, revision=6)]
    held = [record("a", 5), record("b", 6)]
    result = check_ledger(history, [reading({"n1": held, "n2": held})])
    assert result.findings == []
    assert (result.acknowledged, result.verified) == (2, 2)
    assert result.lost_keys() == set()


def test_a_write_missing_on_one_node_is_lost() -> None:
    history = [op("a", 0, 1, revision=5), op("b", 2, 3, revision=6, trial=7)]
    result = check_ledger(history, [reading({"n1": [record("a", 5), record("b", 6)], "n2": [record("a", 5)]})])
    (finding,) = result.findings
    assert (finding.kind, finding.key, finding.node, finding.trial) == (Disagreement.LOST, "b", "n2", 7)
    assert result.lost_keys() == {"b"}
    assert result.verified == 1
    assert "revision 6" in str(finding)


def test_a_write_lost_on_two_nodes_is_one_lost_write() -> None:
    result = check_ledger([op("a", 0, 1)], [reading({"n1": [], "n2": []})])
    assert len(result.findings) == 2
    assert len(result.lost_keys()) == 1


def test_another_value() -> None:
    assert kinds([op("a", 0, 1, revision=5)], [reading({"n1": [record("a", 5, value="x")]})]) == [Disagreement.ALTERED]


def test_another_revision() -> None:
    assert kinds([op("a", 0, 1, revision=5)], [reading({"n1": [record("a", 9)]})]) == [Disagreement.MOVED]


def test_applied_twice_shows_in_the_version() -> None:
    twice = record("a", 9, version=2, created=5)
    assert kinds([op("a", 0, 1, revision=5)], [reading({"n1": [twice]})]) == [Disagreement.TWICE]
    assert kinds([op("a", 0, 1, "info")], [reading({"n1": [twice]})]) == [Disagreement.TWICE]


def test_reported_as_not_executed_but_present() -> None:
    history = [op("a", 0, 1, "fail", error="refused")]
    assert kinds(history, [reading({"n1": [record("a", 5)]})]) == [Disagreement.GHOST]
    assert kinds(history, [reading({"n1": []})]) == []


def test_a_key_that_nobody_wrote() -> None:
    assert kinds([], [reading({"n1": [record("a", 5)]})]) == [Disagreement.UNKNOWN_KEY]


def test_unknown_outcomes_may_go_either_way() -> None:
    history = [op("a", 0, 1, "info"), op("b", 0, 1, "info", client=1)]
    result = check_ledger(history, [reading({"n1": [record("a", 5)]})])
    assert result.findings == []
    assert (result.unknown_applied, result.unknown_absent) == (1, 1)


def test_a_reading_demands_only_its_prefix_and_only_what_was_acknowledged_before_it() -> None:
    history = [op("t1/a", 0, 1), op("t2/a", 0, 1, client=1, revision=2), op("t1/late", 0, 50, client=2, revision=3)]
    result = check_ledger(history, [reading({"n1": [record("t1/a", 1)]}, prefix="t1/", began_ms=10)])
    assert result.findings == []
    assert result.verified == 1


def test_a_write_that_vanishes_after_a_good_reading_is_lost() -> None:
    good = reading({"n1": [record("a", 1)]}, label="trial 1", began_ms=10)
    result = check_ledger([op("a", 0, 1)], [good, reading({"n1": []})])
    assert result.lost_keys() == {"a"}
    assert result.verified == 0


def test_a_node_that_was_not_read_is_named_and_verifies_nothing() -> None:
    result = check_ledger([op("a", 0, 1)], [reading({}, missing={"n1": "connection refused"})])
    assert result.unread == ["n1 in final: connection refused"]
    assert result.verified == 0
    assert result.findings == []


@given(
    outcomes=st.lists(st.sampled_from(["ok", "fail", "info"]), max_size=12),
    present=st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=3),
)
def test_lost_and_ghosts_are_exactly_the_contradictions(outcomes: list[str], present: list[list[bool]]) -> None:
    history = [
        op(f"k{i}", i, i + 0.5, outcome, revision=i + 1 if outcome == "ok" else 0) for i, outcome in enumerate(outcomes)
    ]
    nodes = {
        f"n{n}": [record(f"k{i}", i + 1) for i in range(len(outcomes)) if there[i]] for n, there in enumerate(present)
    }
    result = check_ledger(history, [reading(nodes)])
    lost = {f"k{i}" for i, outcome in enumerate(outcomes) if outcome == "ok" and not all(there[i] for there in present)}
    ghosts = {f"k{i}" for i, outcome in enumerate(outcomes) if outcome == "fail" and any(there[i] for there in present)}
    assert result.lost_keys() == lost
    assert {finding.key for finding in result.of_kind(Disagreement.GHOST)} == ghosts
    assert len(result.findings) == len(result.of_kind(Disagreement.GHOST, Disagreement.LOST))
