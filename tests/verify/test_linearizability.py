"""What linearizable means, in histories small enough to be drawn beside them."""

import itertools

import msgspec
import pytest
from verify_objects import MS, op

from plasmacloud.verify.linearizability import check
from plasmacloud.verify.models import (
    ABSENT,
    MODELS,
    Add,
    Append,
    AppendList,
    Cas,
    Counter,
    Delete,
    Found,
    GrowSet,
    Insert,
    Model,
    Read,
    Register,
    Text,
    VersionedRegister,
    Write,
    WriteAt,
)
from plasmacloud.verify.operations import Operation, prefix_until
from plasmacloud.verify.search import Answer


def hard() -> list[Operation]:
    """Fourteen additions at once, one of them negative, and a sum that they do not have: every subset must be tried."""
    adds = [op(client, 0, 100, Add(2**client if client else -1)) for client in range(14)]
    return [*adds, op(20, 101, 102, Read(), 3)]


def answer(model: Model, *history: Operation) -> Answer:
    return check(history, model).answer


# -- registers -----------------------------------------------------------------------------------------------------


def test_a_read_beside_a_write_may_see_it_or_not() -> None:
    #  0: |---- write 1 ----|
    #  1:     |- read -|
    for seen in (ABSENT, 1):
        assert answer(Register(), op(0, 0, 10, Write(1)), op(1, 2, 5, Read(), seen)) is Answer.OK


def test_a_read_after_a_write_must_see_it() -> None:
    assert answer(Register(), op(0, 0, 10, Write(1)), op(1, 11, 12, Read(), ABSENT)) is Answer.VIOLATION


def test_once_one_reader_saw_it_no_later_one_may_miss_it() -> None:
    #  0: |-------- write 1 --------|
    #  1:   |- read 1 -|
    #  2:                |- read nothing -|
    write = op(0, 0, 20, Write(1))
    assert answer(Register(), write, op(1, 2, 5, Read(), 1), op(2, 6, 9, Read(), ABSENT)) is Answer.VIOLATION
    assert answer(Register(), write, op(1, 2, 7, Read(), 1), op(2, 6, 9, Read(), ABSENT)) is Answer.OK


def test_what_returns_in_the_instant_of_an_invocation_is_concurrent_with_it() -> None:
    assert answer(Register(), op(0, 0, 10, Write(1)), op(1, 10, 12, Read(), ABSENT)) is Answer.OK


def test_a_value_that_nobody_wrote() -> None:
    assert answer(Register(), op(0, 0, 1, Write(1)), op(1, 2, 3, Read(), 7)) is Answer.VIOLATION
    assert answer(Register(initial=7), op(1, 2, 3, Read(), 7)) is Answer.OK


def test_an_unknown_outcome_may_happen_at_any_time_or_never() -> None:
    lost = op(0, 0, None, Write(1))
    assert answer(Register(), lost, op(1, 50, 51, Read(), ABSENT)) is Answer.OK
    assert answer(Register(), lost, op(1, 50, 51, Read(), ABSENT), op(1, 60, 61, Read(), 1)) is Answer.OK
    # ... but once it has happened it has happened, and it does not happen twice.
    seen = (op(1, 50, 51, Read(), 1), op(1, 52, 53, Write(2)))
    assert answer(Register(), lost, *seen, op(1, 54, 55, Read(), 1)) is Answer.VIOLATION


def test_an_unknown_outcome_does_not_happen_before_it_was_asked_for() -> None:
    assert answer(Register(), op(0, 20, None, Write(1)), op(1, 0, 10, Read(), 1)) is Answer.VIOLATION


def test_of_two_compare_and_sets_on_one_value_one_succeeds() -> None:
    begin = op(0, 0, 1, Write(1))
    both = [op(1, 2, 5, Cas(1, 2), True), op(2, 2, 5, Cas(1, 3), True)]
    assert answer(Register(), begin, *both) is Answer.VIOLATION
    assert answer(Register(), begin, both[0], op(2, 2, 5, Cas(1, 3), False)) is Answer.OK
    assert answer(Register(), begin, both[0], op(2, 2, 5, Cas(1, 3), Found(2))) is Answer.OK
    assert answer(Register(), begin, both[0], op(2, 2, 5, Cas(1, 3), Found(3))) is Answer.VIOLATION


def test_a_comparison_that_failed_although_nothing_else_was_ever_there() -> None:
    assert answer(Register(), op(0, 0, 1, Write(1)), op(1, 2, 5, Cas(1, 2), False)) is Answer.VIOLATION


def test_deleted_is_absent() -> None:
    assert answer(Register(), op(0, 0, 1, Write(1)), op(0, 2, 3, Delete()), op(0, 4, 5, Read(), ABSENT)) is Answer.OK
    assert answer(Register(), op(0, 0, 1, Write(1)), op(0, 2, 3, Delete()), op(0, 4, 5, Read(), 1)) is Answer.VIOLATION


def test_a_lost_update_between_two_clients() -> None:
    """Both read 1 and both set what they made of it: the second compare was decided on old data."""
    history = [
        op(0, 0, 1, Write(1)),
        op(1, 2, 3, Read(), 1),
        op(2, 2, 3, Read(), 1),
        op(1, 4, 5, Cas(1, 2), True),
        op(2, 6, 7, Cas(1, 3), True),
    ]
    assert answer(Register(), *history) is Answer.VIOLATION


# -- an etcd-like key ----------------------------------------------------------------------------------------------


def test_revisions_rise_whatever_the_order_of_returns() -> None:
    early, late = op(0, 0, 10, Write("a"), 7), op(1, 1, 9, Write("b"), 5)
    assert answer(VersionedRegister(), early, late, op(2, 11, 12, Read(), ("a", 7))) is Answer.OK
    assert answer(VersionedRegister(), early, late, op(2, 11, 12, Read(), ("b", 5))) is Answer.VIOLATION
    assert answer(VersionedRegister(), op(0, 0, 1, Write("a"), 7), op(0, 2, 3, Write("b"), 5)) is Answer.VIOLATION


def test_a_right_value_with_a_wrong_revision() -> None:
    assert answer(VersionedRegister(), op(0, 0, 1, Write("a"), 7), op(0, 2, 3, Read(), ("a", 8))) is Answer.VIOLATION


def test_a_write_that_nobody_saw_return_has_the_revision_that_somebody_saw() -> None:
    lost = op(0, 0, None, Write("a"))
    seen = op(1, 5, 6, Read(), ("a", 7))
    assert answer(VersionedRegister(), lost, seen, op(1, 7, 8, Write("b"), 9)) is Answer.OK
    assert answer(VersionedRegister(), lost, seen, op(1, 7, 8, Write("b"), 6)) is Answer.VIOLATION


def test_a_write_at_a_revision() -> None:
    first = op(0, 0, 1, WriteAt(0, "a"), 7)
    assert answer(VersionedRegister(), first, op(0, 2, 3, WriteAt(7, "b"), 9)) is Answer.OK
    assert answer(VersionedRegister(), first, op(0, 2, 3, WriteAt(6, "b"), 9)) is Answer.VIOLATION
    assert answer(VersionedRegister(), first, op(0, 2, 3, WriteAt(6, "b"), Found(("a", 7)))) is Answer.OK
    assert answer(VersionedRegister(), first, op(0, 2, 3, WriteAt(7, "b"), Found(("a", 7)))) is Answer.VIOLATION


# -- other objects -------------------------------------------------------------------------------------------------


def test_a_counter_forgets_nothing() -> None:
    adds = [op(0, 0, 5, Add(2)), op(1, 0, 5, Add(3))]
    assert answer(Counter(), *adds, op(2, 6, 7, Read(), 5)) is Answer.OK
    assert answer(Counter(), *adds, op(2, 6, 7, Read(), 3)) is Answer.VIOLATION
    assert [answer(Counter(), *adds, op(2, 1, 4, Read(), n)) is Answer.OK for n in range(6)] == [
        True, False, True, True, False, True,
    ]  # fmt: skip


def test_a_counter_that_goes_down_may_show_a_value_twice() -> None:
    history = [op(0, 0, 1, Add(1)), op(0, 2, 3, Read(), 1), op(0, 4, 5, Add(-1)), op(0, 6, 7, Read(), 0)]
    assert answer(Counter(), *history) is Answer.OK


def test_readers_of_a_list_agree_on_its_order() -> None:
    appends = [op(0, 0, 5, Append("a")), op(1, 0, 5, Append("b"))]
    assert answer(AppendList(), *appends, op(2, 6, 7, Read(), ("b", "a"))) is Answer.OK
    disagreeing = (op(2, 6, 7, Read(), ("b", "a")), op(3, 6, 7, Read(), ("a", "b")))
    assert answer(AppendList(), *appends, *disagreeing) is Answer.VIOLATION
    assert answer(AppendList(), *appends, op(2, 6, 7, Read(), ("b",))) is Answer.VIOLATION


def test_readers_of_a_set_agree_on_what_came_first() -> None:
    inserts = [op(0, 0, 9, Insert("a")), op(1, 0, 9, Insert("b"))]
    one, other = op(2, 1, 5, Read(), frozenset("a")), op(3, 1, 5, Read(), frozenset("b"))
    assert answer(GrowSet(), *inserts, one) is Answer.OK
    assert answer(GrowSet(), *inserts, one, other) is Answer.VIOLATION


def test_a_text_is_written_and_appended_to() -> None:
    history = [op(0, 0, 1, Write("x")), op(0, 2, 5, Append("y")), op(1, 2, 5, Append("z"))]
    assert answer(Text(), *history, op(1, 6, 7, Read(), "xzy")) is Answer.OK
    assert answer(Text(), *history, op(1, 6, 7, Read(), "xz")) is Answer.VIOLATION


@pytest.mark.parametrize("name", MODELS)
def test_every_model_refuses_an_operation_it_does_not_have(name: str) -> None:
    with pytest.raises(TypeError, match="no operation 'jump'"):
        check([op(0, 0, 1, "jump")], MODELS[name]())


# -- whole histories -----------------------------------------------------------------------------------------------


def test_keys_are_judged_one_by_one() -> None:
    good = [op(0, 0, 1, Write(1)), op(0, 2, 3, Read(), 1)]
    bad = [op(0, 0, 1, Write(1)), op(0, 2, 3, Read(), 2)]
    result = check([*good, *(msgspec.structs.replace(each, key="other") for each in bad)], Register())
    assert {part.key: part.answer for part in result.parts} == {"k": Answer.OK, "other": Answer.VIOLATION}
    assert result.answer is Answer.VIOLATION
    assert [example.key for example in result.violations()] == ["other"]


def test_nothing_is_linearizable() -> None:
    assert check([], Register()).answer is Answer.OK


def test_a_budget_that_is_not_enough_is_unknown_never_ok() -> None:
    history = [op(client, 0, 100, Write(client)) for client in range(8)] + [op(9, 101, 102, Read(), 3)]
    result = check(history, Register(), max_steps=5)
    assert result.answer is Answer.UNKNOWN
    assert result.parts[0].reason == "more than 5 steps"
    assert result.parts[0].order == ()
    assert check(history, Register()).answer is Answer.OK


def test_a_time_limit_on_the_callers_clock() -> None:
    ticks = itertools.count()
    result = check(hard(), Counter(), time_limit=3, clock=lambda: next(ticks))
    assert (result.answer, result.parts[0].reason) == (Answer.UNKNOWN, "the time limit")
    with pytest.raises(ValueError, match="needs a clock"):
        check(hard(), Counter(), time_limit=3)


def test_a_violation_on_one_key_outweighs_an_unknown_on_another() -> None:
    bad = [msgspec.structs.replace(op(0, 0, 1, Read(), 7), key="bad")]
    result = check([*hard(), *bad], Counter(), max_steps=100)
    assert {part.key: part.answer for part in result.parts} == {"k": Answer.UNKNOWN, "bad": Answer.VIOLATION}
    assert result.answer is Answer.VIOLATION


def test_an_operation_without_a_return_has_no_output() -> None:
    with pytest.raises(ValueError, match="without a return there is no output"):
        Operation(0, "k", 0, None, Read(), 5)
    with pytest.raises(ValueError, match="before it was invoked"):
        Operation(0, "k", 5, 4, Read(), 5)


def test_a_prefix_knows_only_what_had_returned() -> None:
    history = [op(0, 0, 10, Write(1)), op(1, 5, 30, Read(), 1), op(2, 25, 40, Read(), 1)]
    assert prefix_until(history, 20 * MS) == [op(0, 0, 10, Write(1)), op(1, 5, None, Read())]
