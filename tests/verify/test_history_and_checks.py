"""The history's own rules, verdict arithmetic, and the file format."""

import pytest
from verify_handmade import op

from plasmacloud.verify.checks import Verdict, combine, shorten
from plasmacloud.verify.events import AnyEvent, FaultProof, Note, TrialBegan
from plasmacloud.verify.files import UnreadableEvidence, decode_lines, encode_lines, read_lines
from plasmacloud.verify.history import Op, Outcome, broken_assumptions, count_outcomes


def test_combine_takes_the_worst_and_nothing_is_void() -> None:
    assert combine([]) is Verdict.VOID
    assert combine([Verdict.PASS, Verdict.PASS]) is Verdict.PASS
    assert combine([Verdict.PASS, Verdict.INCONCLUSIVE]) is Verdict.INCONCLUSIVE
    assert combine([Verdict.VOID, Verdict.INCONCLUSIVE]) is Verdict.VOID
    assert combine([Verdict.VOID, Verdict.FAIL, Verdict.PASS]) is Verdict.FAIL


def test_shorten_says_how_much_it_left_out() -> None:
    assert shorten(["a", "b"], 2) == ("a", "b")
    assert shorten(["a", "b", "c"], 2) == ("a", "b", "... and 1 more")


def test_counts() -> None:
    counts = count_outcomes([op("a", 0, 1), op("b", 0, 1, "info"), op("c", 0, 1, "info"), op("d", 0, 1, "fail")])
    assert (counts.ok, counts.fail, counts.info, counts.total) == (1, 1, 2, 4)


def test_an_operation_cannot_return_before_it_was_invoked_nor_be_acknowledged_without_a_revision() -> None:
    with pytest.raises(ValueError, match="before it was invoked"):
        op("a", 2, 1)
    with pytest.raises(ValueError, match="without a revision"):
        op("a", 1, 2, revision=0)


def test_assumptions_clients_are_sequential_and_keys_unique() -> None:
    assert broken_assumptions([op("a", 0, 1), op("b", 1, 2), op("c", 0, 5, client=1)]) == []
    assert len(broken_assumptions([op("a", 0, 5), op("b", 4, 6)])) == 1
    assert len(broken_assumptions([op("a", 0, 1), op("a", 2, 3, client=1)])) == 1


def test_lines_round_trip() -> None:
    events = [
        TrialBegan(at_ns=1, trial=3, leader="n1", leader_member=9, term=2),
        FaultProof(at_ns=2, trial=3, fault="kill", landed=True, evidence="signal 9"),
        Note(at_ns=3, text="ü"),
    ]
    assert list(decode_lines(encode_lines(events), AnyEvent, source="events")) == events
    ops = [op("a", 0, 1), op("b", 1, 2, Outcome.INFO.value, error="deadline")]
    assert list(decode_lines(encode_lines(ops), Op, source="history")) == ops


def test_a_cut_line_is_reported_with_its_place(tmp_path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(encode_lines([op("a", 0, 1), op("b", 1, 2)])[:-20])
    with pytest.raises(UnreadableEvidence, match=r"history\.jsonl line 2"):
        read_lines(path, Op)
    with pytest.raises(UnreadableEvidence, match="cannot be read"):
        read_lines(tmp_path / "absent", Op)


def test_a_history_line_that_breaks_its_rules_is_refused_on_reading() -> None:
    line = encode_lines([op("a", 5, 6)]).replace(b'"return_ns":6000000', b'"return_ns":1')
    with pytest.raises(UnreadableEvidence, match="before it was invoked"):
        list(decode_lines(line, Op, source="history"))
