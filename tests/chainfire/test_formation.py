"""Founding a cluster: one, never two, and by whom."""

import random

import pytest

from plasmacloud.base.address import Address
from plasmacloud.chainfire.formation import Decision, Founders, Machine, Report, Step, decide


def machine(name: str) -> Machine:
    return Machine(name, Address("127.0.0.1", 1000 + ord(name[-1])), Address("127.0.0.1", 2000 + ord(name[-1])))


A, B, C, D = (machine(name) for name in "abcd")
ABC: Founders = (A, B, C)


def heard(*reports: Report) -> dict[str, Report]:
    return {report.sender.name: report for report in reports}


def test_nothing_happens_before_enough_machines_have_been_heard_of() -> None:
    decision = decide(Report(A, 3), heard(Report(B, 3)))
    assert decision == Decision(Step.WAIT, (), "2 of 3 machines heard of")


def test_machines_that_wait_for_another_number_do_not_count() -> None:
    assert decide(Report(A, 3), heard(Report(B, 3), Report(C, 5))).step is Step.WAIT


def test_the_first_by_name_are_proposed() -> None:
    others = heard(Report(B, 3), Report(C, 3), Report(D, 3))
    assert decide(Report(A, 3), others)[:2] == (Step.PROPOSE, ABC)
    spare = decide(Report(D, 3), heard(Report(A, 3), Report(B, 3), Report(C, 3)))
    assert spare.step is Step.WAIT
    assert "joins it then" in spare.why


def test_a_promise_needs_everybodys_proposal_and_founding_everybodys_promise() -> None:
    own = Report(A, 3, proposed=ABC)
    assert decide(own, heard(Report(B, 3, ABC), Report(C, 3))).step is Step.WAIT
    assert decide(own, heard(Report(B, 3, ABC), Report(C, 3, ABC))).step is Step.PROMISE
    own = Report(A, 3, ABC, ABC)
    assert decide(own, heard(Report(B, 3, ABC, ABC), Report(C, 3, ABC))).step is Step.WAIT
    assert decide(own, heard(Report(B, 3, ABC, ABC), Report(C, 3, ABC, ABC, member=True))).step is Step.FOUND


def test_a_promise_of_somebody_else_goes_before_the_own_proposal() -> None:
    others = heard(Report(A, 3), Report(C, 3, (B, C, D), (B, C, D)), Report(D, 3, (B, C, D)))
    assert decide(Report(B, 3), others)[:2] == (Step.PROPOSE, (B, C, D))


def test_a_cluster_that_exists_is_joined() -> None:
    decision = decide(Report(D, 3), heard(Report(A, 3, ABC, ABC, member=True)))
    assert decision[:2] == (Step.JOIN, (A,))


def test_a_promise_that_cannot_be_kept_ends_in_joining_the_others() -> None:
    own = Report(D, 3, (B, C, D), (B, C, D))
    others = heard(Report(B, 3, ABC, ABC), Report(C, 3, ABC, ABC))
    assert decide(own, others).step is Step.WAIT
    assert "remove their data directories" in decide(own, others).why
    others["b"] = Report(B, 3, ABC, ABC, member=True)
    assert decide(own, others)[:2] == (Step.JOIN, (B,))


class Node:
    """A machine with what it has heard so far; promises survive its crashes."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.others: dict[str, Report] = {}
        self.founded: Founders = ()
        self.joined = False

    def act(self) -> None:
        if self.report.member:
            return
        decision = decide(self.report, self.others)
        if decision.step is Step.PROPOSE:
            self.report = self.report._replace(proposed=decision.founders)
        elif decision.step is Step.PROMISE:
            assert not self.report.promised
            self.report = self.report._replace(promised=decision.founders)
        elif decision.step is Step.FOUND:
            self.founded = decision.founders
            self.report = self.report._replace(member=True)
        elif decision.step is Step.JOIN:
            self.joined = True
            self.report = self.report._replace(member=True)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_heard_late_or_lost_at_most_one_cluster_is_founded(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(3, 8)
    expect = rng.randrange(count // 2 + 1, count + 1)
    nodes = [Node(Report(machine(chr(ord("a") + n)), expect)) for n in range(count)]
    late: list[tuple[Node, Report]] = []
    for step in range(3000):
        one, other = rng.sample(nodes, 2)
        late.append((one, other.report))
        if rng.random() < 0.7:
            target, report = late.pop(rng.randrange(len(late)))
            known = target.others.get(report.sender.name)
            if known is None or not known.promised or report.promised:  # a connection delivers in order
                target.others[report.sender.name] = report
        rng.choice(nodes).act()
        if rng.random() < 0.01:
            crashed = rng.choice(nodes)
            crashed.others.clear()
        if step == 2000:
            late.clear()
    for _ in range(20):  # in the end everybody hears everybody
        for node in nodes:
            node.others = {n.report.sender.name: n.report for n in nodes if n is not node}
            node.act()
    founded = {node.founded for node in nodes if node.founded}
    assert len(founded) <= 1, f"two clusters: {founded}"
    if not founded:
        promises = {node.report.promised for node in nodes if node.report.promised}
        assert len(promises) > 1, "nobody was in the way, and yet no cluster was founded"
    else:
        assert all(node.report.member for node in nodes), "somebody was left outside"
