"""What happened when, put together from events and status answers: windows, lives of processes, reigns. Pure.

Times are CLOCK_MONOTONIC nanoseconds. Kinds of events that are not known here lose nothing: they appear in the list of
what happened with the facts that they carry.
"""

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from plasmacloud.lab.html.source import Attempt, Moment, Sample, View
from plasmacloud.verify.availability import Gap, longest_gap

_CLOSING = ("window-closed", "service-resumed", "caught-up")
_ENDING = ("process-ended", "removed-ended", "unexpected-exit")
_TALK = ("loop-stall", "leader-seen", "node-started")
"""Said often, and elsewhere already; left out of the list of what happened where something more telling stands."""


class Window(msgspec.Struct, frozen=True):
    """A time that is shaded: from a fault until its effects are over, or a time in which nothing may change."""

    begin_ns: int
    end_ns: int
    trial: int
    label: str
    fault: bool = True


class Span(msgspec.Struct, frozen=True):
    """A part of the life of a process. ``state``: running, or frozen."""

    begin_ns: int
    end_ns: int
    state: str


class Reign(msgspec.Struct, frozen=True):
    """A time in which the nodes named one leader in one term. ``leader`` is a node's name where it is known."""

    begin_ns: int
    end_ns: int
    leader: str
    term: int


class Round(msgspec.Struct, frozen=True):
    """One trial: when its first fault was injected, and the part of the time axis that shows it."""

    number: int
    label: str
    fault_ns: int
    begin_ns: int
    end_ns: int
    gap: Gap | None
    moments: list[Moment]


def describe_fault(moment: Moment) -> str:
    """``kill n2``."""
    name = str(moment.facts.get("fault", "fault"))
    nodes = moment.nodes
    return f"{name} {', '.join(nodes[:3])}{' …' if len(nodes) > 3 else ''}" if nodes else name


def windows(view: View) -> list[Window]:
    """Faults, from the injection to the close of their window; and times in which nothing may change."""
    end_ns = view.span_ns[1]
    found: list[Window] = []
    hold: Moment | None = None
    for index, moment in enumerate(view.moments):
        if moment.kind == "fault-injected":
            later = view.moments[index + 1 :]
            closing = next((m for kind in _CLOSING for m in later if m.kind == kind and m.trial == moment.trial), None)
            found.append(
                Window(moment.at_ns, closing.at_ns if closing else end_ns, moment.trial, describe_fault(moment))
            )
        elif moment.kind == "hold-began":
            hold = moment
        elif moment.kind == "hold-ended" and hold is not None:
            found.append(Window(hold.at_ns, moment.at_ns, moment.trial, "nothing may change", fault=False))
            hold = None
    return found


def lives(view: View) -> dict[str, list[Span]]:
    """For each node, when its process ran and when it was frozen."""
    end_ns = view.span_ns[1]
    spans: dict[str, list[Span]] = {}
    since: dict[str, int] = {}
    for moment in view.moments:
        node = moment.facts.get("node")
        if not isinstance(node, str):
            continue
        if moment.kind in ("node-started", "node-restarted"):
            spans.setdefault(node, [])
            since.setdefault(node, moment.at_ns)
        elif moment.kind in _ENDING and node in since:
            spans[node].append(Span(since.pop(node), moment.at_ns, "running"))
        elif moment.kind == "node-thawed":
            frozen_ns = int(float(moment.facts.get("frozen_ms", 0)) * 1e6)
            spans.setdefault(node, []).append(Span(moment.at_ns - frozen_ns, moment.at_ns, "frozen"))
    for node, begin_ns in since.items():
        spans[node].append(Span(begin_ns, end_ns, "running"))
    return {node: sorted(spans[node], key=lambda span: (span.begin_ns, span.state)) for node in sorted(spans)}


def reigns(samples: Sequence[Sample]) -> list[Reign]:
    """Who led, as the node with the highest term said last; a time in which it named nobody is left out."""
    names = {sample.member: sample.node for sample in samples if sample.member}
    latest: dict[str, Sample] = {}
    changes: list[tuple[int, int, int]] = []
    for sample in samples:
        if sample.error:
            latest.pop(sample.node, None)
        else:
            latest[sample.node] = sample
        best = max(latest.values(), key=lambda s: (s.term, s.leader != 0, s.at_ns), default=None)
        leader, term = (best.leader, best.term) if best else (0, 0)
        if not changes or changes[-1][1:] != (leader, term):
            changes.append((sample.at_ns, leader, term))
    if samples:
        changes.append((samples[-1].at_ns, 0, 0))
    return [
        Reign(begin, end, names.get(leader, f"{leader:x}"), term)
        for (begin, leader, term), (end, *_) in pairwise(changes)
        if leader and end > begin
    ]


def acknowledged_ns(attempts: Sequence[Attempt]) -> list[int]:
    """When writes were acknowledged, ascending."""
    return sorted(a.return_ns for a in attempts if a.outcome == "ok" and a.kind == "write")


def rounds(view: View) -> list[Round]:
    """All trials in which a fault was injected, in order."""
    by_trial: dict[int, list[Moment]] = {}
    for moment in view.moments:
        if moment.trial:
            by_trial.setdefault(moment.trial, []).append(moment)
    ack_ns = acknowledged_ns(view.attempts)
    found = []
    for number, moments in sorted(by_trial.items()):
        faults = [moment for moment in moments if moment.kind == "fault-injected"]
        if not faults:
            continue
        begin_ns = faults[0].at_ns
        closed = [m.at_ns for m in moments if m.kind == "window-closed"]
        last_ns = max(m.at_ns for m in moments)
        gap = longest_gap(ack_ns, begin_ns, max(begin_ns, closed[-1] if closed else last_ns)) if ack_ns else None
        end_ns = max(last_ns, gap.end_ns if gap else 0, begin_ns + 10_000_000)
        margin_ns = (end_ns - begin_ns) // 12
        label = describe_fault(faults[0]) + (f" and {len(faults) - 1} more" if len(faults) > 1 else "")
        found.append(Round(number, label, begin_ns, begin_ns - margin_ns, end_ns + margin_ns // 2, gap, moments))
    return found


def telling(moments: Sequence[Moment]) -> list[Moment]:
    """The moments worth a line: what is said elsewhere already is left out."""
    started_again = {m.facts.get("new_pid") for m in moments if m.kind == "node-restarted"}
    return [
        moment
        for moment in moments
        if moment.kind not in _TALK or (moment.kind == "node-started" and moment.facts.get("pid") not in started_again)
    ]


_SAYS = {
    "node-started": "{node} started (process {pid})",
    "leader-seen": "all name {node} as leader, term {term}",
    "trial-began": "trial begins; {leader} leads, term {term}",
    "process-ended": "{node} (process {pid}) ended, {status}",
    "window-closed": "the fault's window closes",
    "node-restarted": "{node} restarted (process {old_pid} → {new_pid})",
    "node-thawed": "{node} goes on after {frozen_ms:.0f} ms frozen",
    "hold-began": "from here on nothing may change",
    "hold-ended": "until here nothing may have changed",
    "loop-stall": "the lab itself was late by {late_ms:.0f} ms",
    "unexpected-exit": "{node} (process {pid}) ended on its own, {status}",
    "stopped": "stopped by the {cause}: {reason}",
    "note": "{text}",
    "membership-changed": "{node} {change} after {took_ms:.0f} ms",
    "recovered": "{node} serves alone from revision {revision}",
}
_SIGNALS = {-1: "SIGHUP", -2: "SIGINT", -6: "SIGABRT", -9: "SIGKILL", -11: "SIGSEGV", -15: "SIGTERM"}


def describe(moment: Moment) -> str:
    """One line about an event; one of an unknown kind is told by its facts."""
    facts = dict(moment.facts)
    status = facts.get("status")
    if isinstance(status, int):
        facts["status"] = f"by {_SIGNALS.get(status, f'signal {-status}')}" if status < 0 else f"with status {status}"
    match moment.kind:
        case "fault-injected":
            return describe_fault(moment)
        case "fault-proof":
            return f"{'landed' if facts.get('landed') else 'NOT proven'}: {facts.get('evidence', '')}"
        case "service-resumed":
            waited = float(facts.get("waited_ms", 0))
            return (
                f"a write sent after the fault was acknowledged, {waited:.1f} ms after it"
                if facts.get("ok")
                else (f"no write was acknowledged within {waited:.0f} ms")
            )
        case "caught-up":
            waited = float(facts.get("waited_ms", 0))
            who = ", ".join(map(str, facts.get("behind") or ()))
            return (
                f"every node has everything, {waited:.0f} ms later"
                if facts.get("ok")
                else (f"behind after {waited:.0f} ms: {who}")
            )
        case kind if kind in _SAYS:
            try:
                return _SAYS[kind].format_map(facts)
            except (KeyError, ValueError, TypeError):
                pass
        case _:
            pass
    return " ".join([moment.kind, *(f"{name}={value}" for name, value in facts.items())])
