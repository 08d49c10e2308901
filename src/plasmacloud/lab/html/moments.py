"""What happened in one trial, line by line; a line opens the operations and the log lines around its moment."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

from plasmacloud.lab.html.frame import Scene
from plasmacloud.lab.html.logs import around
from plasmacloud.lab.html.markup import Child, Markup, el, join
from plasmacloud.lab.html.scales import duration
from plasmacloud.lab.html.source import Attempt, Moment
from plasmacloud.lab.html.timeline import Round, describe, telling
from plasmacloud.lab.html.words import anchor, table

_PLAIN = ("trial-began", "fault-proof", "window-closed", "leader-seen", "loop-stall", "hold-began", "hold-ended")
_SEARCH_NS = 1_000_000_000
_LOG_BEFORE_NS, _LOG_AFTER_NS = 60_000_000, 250_000_000
_LOG_LINES, _IN_FLIGHT, _BEFORE, _AFTER = 8, 3, 2, 2
_OUTCOMES = {"ok": "acknowledged", "fail": "not executed", "info": "unknown"}
_MAX_ERROR = 110


def told(scene: Scene, shown: Round) -> Markup:
    """All moments of a trial worth a line."""
    return el("ol", [_moment(scene, shown, moment) for moment in telling(shown.moments)], class_="told")


def moment_anchor(scene: Scene, moment: Moment) -> str:
    """Where a moment is told."""
    return anchor("m", scene.view.name, moment.trial, moment.at_ns)


def expandable(moment: Moment) -> bool:
    """Whether a moment has operations and logs worth a look."""
    return moment.kind not in _PLAIN


def _moment(scene: Scene, shown: Round, moment: Moment) -> Markup:
    line = [
        el("span", relative(moment.at_ns, shown.fault_ns), class_="when"),
        el("span", describe(moment), class_="fault" if moment.kind == "fault-injected" else None),
    ]
    if not expandable(moment):
        return el("li", el("div", line))
    excerpt = el("div", _excerpt(scene, shown, moment), class_="excerpt", id=moment_anchor(scene, moment))
    return el("li", el("details", el("summary", line), excerpt))


def relative(at_ns: int, origin_ns: int) -> str:
    """``+12.3 ms`` after the fault."""
    ms = (at_ns - origin_ns) / 1e6
    if ms == 0:
        return "0"
    return f"{'−' if ms < 0 else '+'}{duration(abs(ms))}"


def _excerpt(scene: Scene, shown: Round, moment: Moment) -> Iterator[Markup]:
    attempts, in_flight = nearby(scene.view.attempts, moment.at_ns)
    if attempts:
        caption = f"Operations around this moment; under way: {in_flight:,}"
        yield operations(attempts, shown.fault_ns, caption)
    else:
        yield el("p", "No operation was recorded within a second of this moment.", class_="note")
    lines, more = around(scene.view.logs, moment.at_ns, _LOG_BEFORE_NS, _LOG_AFTER_NS, _LOG_LINES)
    if not lines:
        yield el("p", "No process logged anything just then.", class_="note")
        return
    rows = [
        el("tr", el("td", relative(line.at_ns, shown.fault_ns)), el("td", log), el("td", line.text))
        for log, line in lines
    ]
    caption = "Log lines around this moment" + (f"; {more:,} more in the logs" if more else "")
    yield el("table", el("caption", caption), el("tbody", rows), class_="log")


def nearby(attempts: Sequence[Attempt], at_ns: int) -> tuple[list[Attempt], int]:
    """The last to end before a moment, some under way (those that went wrong first), the first sent after it; in the
    order in which they were sent. Also how many were under way. ``attempts`` are in that order."""
    first = bisect_left(attempts, at_ns - _SEARCH_NS, key=_invoked)
    between = bisect_right(attempts, at_ns, key=_invoked)
    sent = attempts[first:between]
    flying = [attempt for attempt in sent if attempt.return_ns >= at_ns]
    over = sorted((attempt for attempt in sent if attempt.return_ns < at_ns), key=lambda attempt: attempt.return_ns)
    after = attempts[between : between + _AFTER]
    after = [attempt for attempt in after if attempt.invoke_ns <= at_ns + _SEARCH_NS]
    telling_first = sorted(flying, key=lambda attempt: (attempt.outcome == "ok", -attempt.return_ns))
    chosen = [*over[-_BEFORE:], *telling_first[:_IN_FLIGHT], *after]
    return sorted(chosen, key=lambda attempt: (attempt.invoke_ns, attempt.client, attempt.key)), len(flying)


def _invoked(attempt: Attempt) -> int:
    return attempt.invoke_ns


def operations(attempts: Sequence[Attempt], origin_ns: int, caption: str) -> Markup:
    """A table of operations, times relative to ``origin_ns``."""
    head = ("sent", "took", "client", "node", "operation", "outcome")
    return table(head, [_operation(attempt, origin_ns) for attempt in attempts], caption=caption, numeric=(0, 1))


def _operation(attempt: Attempt, origin_ns: int) -> Markup:
    what: list[Child] = [_OUTCOMES.get(attempt.outcome, attempt.outcome)]
    if attempt.outcome == "ok" and attempt.revision:
        what.append(f", revision {attempt.revision:,}")
    if attempt.error:
        error = attempt.error if len(attempt.error) <= _MAX_ERROR else attempt.error[: _MAX_ERROR - 1] + "…"
        what.append(el("span", f": {error}", class_="soft"))
    return el(
        "tr",
        el("td", relative(attempt.invoke_ns, origin_ns), class_="num"),
        el("td", duration(attempt.latency_ms), class_="num"),
        el("td", attempt.client),
        el("td", attempt.node),
        el("td", attempt.kind, " ", el("code", attempt.key), class_="key"),
        el("td", el("span", what[0], class_=attempt.outcome if attempt.outcome in _OUTCOMES else None), join(what[1:])),
    )
