"""Published histories: their two forms, and what each kind of ending means."""

import pytest

from plasmacloud.verify.foreign_histories import UnreadableHistory, read_history
from plasmacloud.verify.linearizability import check
from plasmacloud.verify.models import (
    ABSENT,
    Add,
    Append,
    Cas,
    Counter,
    GrowSet,
    Insert,
    Read,
    Register,
    Text,
    Write,
)
from plasmacloud.verify.operations import UNKNOWN
from plasmacloud.verify.search import Answer

JEPSEN = """\
INFO  jepsen.core - starting
INFO  jepsen.util - 0\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:invoke\t:write\t4
INFO  jepsen.util - 0\t:ok\t:read\tnil
INFO  jepsen.util - 1\t:ok\t:write\t4
INFO  jepsen.util - :nemesis\t:info\t:start\tnil
INFO  jepsen.util - 2\t:invoke\t:cas\t[4 1]
INFO  jepsen.util - 0\t:invoke\t:cas\t[3 0]
INFO  jepsen.util - 2\t:ok\t:cas\t[4 1]
INFO  jepsen.util - 0\t:fail\t:cas\t[3 0]
INFO  jepsen.util - 1 \t:invoke :write \t2 \t:hint 0
INFO  jepsen.util - 3\t:invoke\t:read\tnil
INFO  jepsen.util - 1\t:info\t:write\t:timed-out
INFO  jepsen.util - 3\t:fail\t:read\t:timed-out
INFO  jepsen.util - 0\t:invoke\t:cas\t[1 5]
INFO  jepsen.util - 0\t:fail\t:cas\t:timed-out
INFO  jepsen.util - 5\t:invoke\t:write\t9
"""

PAIRS = """\
{:process 0, :type :invoke, :f :put, :key "8", :value "x 5 0 y"}
{:process 1, :type :invoke, :f :append, :key "8", :value "say \\"z\\""}
{:process 0, :type :ok, :f :put, :key "8", :value "x 5 0 y"}
{:process 1, :type :ok, :f :append, :key "8", :value "say \\"z\\""}
{:process 0, :type :invoke, :f :get, :key "8", :value nil}
{:process 0, :type :ok, :f :get, :key "8", :value "x 5 0 ysay \\"z\\""}
{:process 0, :type :invoke, :f :get, :key "9", :value nil}
{:process 0, :type :ok, :f :get, :key "9", :value ""}
"""


def test_a_jepsen_log() -> None:
    found = read_history(JEPSEN.splitlines(), Register())
    assert [(each.client, each.input, each.output) for each in found] == [
        (0, Read(), ABSENT),
        (1, Write(4), None),
        (2, Cas(4, 1), True),
        (0, Cas(3, 0), False),
        (1, Write(2), UNKNOWN),
        (0, Cas(1, 5), UNKNOWN),
        (5, Write(9), UNKNOWN),
    ]
    assert (found[0].invoke_ns, found[0].return_ns) == (2_000_000, 4_000_000)
    assert check(found, Register()).answer is Answer.OK


def test_a_jepsen_log_with_a_lie_in_it() -> None:
    lines = JEPSEN.replace(":fail\t:cas\t[3 0]", ":ok\t:cas\t[3 0]").splitlines()
    (example,) = check(read_history(lines, Register()), Register()).violations()
    assert [each.input for each in example.stuck] == [Cas(3, 0)]


def test_a_history_of_texts() -> None:
    found = read_history(PAIRS.splitlines(), Text())
    assert [each.key for each in found] == ["8", "8", "8", "9"]
    assert found[1].input == Append('say "z"')
    assert check(found, Text()).answer is Answer.OK
    lied = PAIRS.replace('"x 5 0 ysay', '"x 5 0 y_say')
    assert check(read_history(lied.splitlines(), Text()), Text()).answer is Answer.VIOLATION


def test_sets_and_counters() -> None:
    lines = [
        "{:process 0, :type :invoke, :f :add, :value 3, :time 12, :index 0}",
        "{:process 0, :type :ok, :f :add, :value 3, :time 14, :index 1}",
        "{:process 0, :type :invoke, :f :read, :value nil}",
    ]
    as_set = read_history([*lines, "{:process 0, :type :ok, :f :read, :value #{3}}"], GrowSet())
    assert [(each.input, each.output) for each in as_set] == [(Insert(3), None), (Read(), frozenset({3}))]
    as_counter = read_history([*lines, "{:process 0, :type :ok, :f :read, :value 3}"], Counter())
    assert [(each.input, each.output) for each in as_counter] == [(Add(3), None), (Read(), 3)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["nothing of the kind"], "no operations"),
        (["{:process 0, :type :invoke, :f :fly, :value nil}"], "line 1: there is no operation :fly"),
        (["{:process 0, :type :invoke, :f :read}"] * 2, "line 2: process 0 already has an operation under way"),
        (["{:process 0, :type :invoke, :f :cas, :value [1 2}"], "has no ]"),
    ],
)
def test_what_cannot_be_read_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(UnreadableHistory, match=message):
        read_history(lines, Register())
