"""How machines that know only some of each other's addresses found one cluster, and never two.

With ``--bootstrap-expect N`` every machine gets the same flags but for its name and addresses. Each asks everybody it
has heard of, again and again, and tells what it knows. When a machine has heard of N that want the same, itself
included, it *proposes* to found the cluster with the N that come first by name. It *promises* to do so, durably, when
all N propose the same; it *founds* the cluster when all N have promised the same. It joins a cluster that exists.

**Never two.** Founding a set needs the promise of each of its members, and a machine promises at most once in its
life. So of two sets that share a machine at most one is ever founded. With N more than half of the machines any two
sets share one; with fewer, the operator has asked for the possibility of two clusters.

**No dead end, almost.** What machines have heard of only grows, so proposals converge, and the shell lets a machine
propose only when it has heard of nobody new for a while. Should some promise a set that others have moved on from, a
promise by somebody else goes before one's own proposal, the first by name if there are several. A machine whose set
can never be founded, because one of it has promised another, *gives up* founding (for ever: it has promised once) and
joins the cluster that the others found. If no cluster can come of it, every machine says what the operator has to do.

Pure: what is known in, what to do out.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from plasmacloud.base.address import Address


class Machine(NamedTuple):
    """One machine that takes part. Ordered by name, which has to be unique."""

    name: str
    peer: Address
    client: Address


Founders = tuple[Machine, ...]
"""A set of founders, in order."""


class Report(NamedTuple):
    """What one machine says of itself. ``promised`` is empty while it has promised nothing, and never changes after."""

    sender: Machine
    expect: int
    proposed: Founders = ()
    promised: Founders = ()
    member: bool = False


class Step(Enum):
    """What a machine does next."""

    WAIT = "wait"
    PROPOSE = "propose"  # say that these would be the founders
    PROMISE = "promise"  # write it down, then say so
    FOUND = "found"
    JOIN = "join"  # the cluster exists; ``founders`` are members of it


class Decision(NamedTuple):
    """A step, whom it concerns, and the reason in words for the log."""

    step: Step
    founders: Founders
    why: str


def decide(own: Report, others: Mapping[str, Report]) -> Decision:
    """The next step of a machine that says ``own`` of itself and has heard ``others`` (by name, the newest of each)."""
    assert own.sender.name not in others
    members = tuple(sorted(report.sender for report in others.values() if report.member))
    if own.promised:
        return _keep(own, others, members)
    if members:
        return Decision(Step.JOIN, members, f"{members[0].name} is a member of a cluster")
    for founders in sorted({report.promised for report in others.values() if report.promised}):
        if own.sender in founders and not _broken(founders, others):
            return _agree(own, founders, others, f"promised by {_names(_promisers(founders, others))}")
    fresh = sorted([own.sender, *(r.sender for r in others.values() if r.expect == own.expect)])
    if len(fresh) < own.expect:
        return Decision(Step.WAIT, (), f"{len(fresh)} of {own.expect} machines heard of")
    return _agree(own, tuple(fresh[: own.expect]), others, "all have been heard of")


def _keep(own: Report, others: Mapping[str, Report], members: Founders) -> Decision:
    """A promise is out: found when everybody has made it; when somebody cannot make it any more, join the others."""
    founders = own.promised
    missing = [m for m in founders if m != own.sender and not _has_promised(m, founders, others)]
    if not missing:
        return Decision(Step.FOUND, founders, "all founders have promised")
    if not _broken(founders, others):
        return Decision(Step.WAIT, founders, f"waiting for the promise of {_names(missing)}")
    if members:
        return Decision(Step.JOIN, members, "the promised cluster cannot be founded any more, and another one exists")
    return Decision(
        Step.WAIT,
        founders,
        "the machines have promised to found different clusters, and wait for one of them to come about; if none does, "
        "stop them all, remove their data directories, and start them with equal --seeds",
    )


def _agree(own: Report, founders: Founders, others: Mapping[str, Report], why: str) -> Decision:
    """Propose the set, or promise it when everybody in it proposes the same."""
    if own.sender not in founders:
        return Decision(Step.WAIT, founders, f"{_names(founders)} will found the cluster; this machine joins it then")
    if own.proposed != founders:
        return Decision(Step.PROPOSE, founders, why)
    behind = [m for m in founders if m != own.sender and not _would_promise(m, founders, others)]
    if behind:
        return Decision(Step.WAIT, founders, f"waiting for {_names(behind)} to propose the same")
    return Decision(Step.PROMISE, founders, f"{_names(founders)} propose the same")


def _would_promise(machine: Machine, founders: Founders, others: Mapping[str, Report]) -> bool:
    report = others.get(machine.name)
    return report is not None and founders in (report.proposed, report.promised)


def _has_promised(machine: Machine, founders: Founders, others: Mapping[str, Report]) -> bool:
    report = others.get(machine.name)
    return report is not None and report.promised == founders


def _broken(founders: Founders, others: Mapping[str, Report]) -> bool:
    """Whether a founder has promised another set, or is a member already: then this one will never be founded."""
    reports = [others[machine.name] for machine in founders if machine.name in others]
    return any(report.promised != founders and (report.promised or report.member) for report in reports)


def _promisers(founders: Founders, others: Mapping[str, Report]) -> list[Machine]:
    return sorted(report.sender for report in others.values() if report.promised == founders)


def _names(machines: "list[Machine] | Founders") -> str:
    return ", ".join(machine.name for machine in machines)
