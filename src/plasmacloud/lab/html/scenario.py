"""One scenario: what must hold, what was measured, the whole of it over time, and its trials one by one."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from plasmacloud.lab.html.chart import Chart, draw
from plasmacloud.lab.html.findings import finding_list, trials_named
from plasmacloud.lab.html.frame import Scene, Stretch
from plasmacloud.lab.html.limits import limit_ms
from plasmacloud.lab.html.markup import Child, Markup, el, join, trusted
from plasmacloud.lab.html.moments import expandable, moment_anchor, told
from plasmacloud.lab.html.scales import duration
from plasmacloud.lab.html.source import View
from plasmacloud.lab.html.timeline import Round, lives, reigns, rounds, telling, windows
from plasmacloud.lab.html.words import anchor, badge, name_of, scroll, table
from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.report_metrics import in_order, metric_words
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.statistics import summarize

OVERVIEW_DOTS = 2500
TRIAL_DOTS = 900


def scene_of(view: View) -> Scene:
    """Put together what the drawings need."""
    return Scene(view, windows(view), lives(view), reigns(view.samples), rounds(view))


class Told(msgspec.Struct, frozen=True):
    """A trial told in full."""

    number: int
    html: Markup


def in_order_of_interest(scene: Scene, result: Judgement) -> list[Round]:
    """Trials that findings name, then the longest outage, the median, the shortest, then the others as they came."""
    named = {trial for check in result.checks if check.verdict is not Verdict.PASS for trial in trials_named(check)}
    by_length = sorted(scene.rounds, key=lambda shown: (shown.gap.length_ms if shown.gap else 0.0, shown.number))
    first = [shown for shown in scene.rounds if shown.number in named]
    if by_length:
        first += [by_length[-1], by_length[(len(by_length) - 1) // 2], by_length[0]]
    return list({shown.number: shown for shown in [*first, *scene.rounds]}.values())


def tell_trial(scene: Scene, shown: Round) -> Told:
    """The chart of a trial and what happened in it."""
    name = scene.view.name
    links = {m.at_ns: moment_anchor(scene, m) for m in telling(shown.moments) if expandable(m)}
    outage = _outage(shown)
    chart = draw(
        scene,
        Stretch(shown.begin_ns, shown.end_ns, shown.fault_ns, shown),
        name=f"{name}, trial {shown.number}",
        summary=f"{shown.label}; longest time without an acknowledged write: {outage}.",
        ok_limit=TRIAL_DOTS,
        links=links,
    )
    summary = el("summary", _line(shown))
    caption = "Zero is the moment of the fault. " + _caption(chart)
    figure = el("figure", scroll(chart.svg, f"Chart of trial {shown.number}"), el("figcaption", caption))
    # The id is inside, so that browsers open the section when a link leads here, also without JavaScript.
    body = el("div", figure, told(scene, shown), id=anchor("t", name, shown.number))
    return Told(shown.number, el("details", summary, body))


def _outage(shown: Round) -> str:
    if shown.gap is None:
        return "not measured"
    return ("≥ " if shown.gap.open else "") + duration(shown.gap.length_ms)


def _line(shown: Round) -> list[Markup]:
    return [
        el("span", f"Trial {shown.number}"),
        el("span", shown.label, class_="what soft"),
        el("span", _outage(shown), class_="num"),
    ]


def _untold(shown: Round) -> Markup:
    """A trial for which there was no room."""
    return el("div", _line(shown), class_="untold")


def section(result: Judgement, scene: Scene | None, trials: Sequence[Told]) -> Markup:
    """The whole section."""
    name = name_of(result)
    detailed = {trial.number for trial in trials}
    return el(
        "section",
        el("h2", result.scenario, badge(result.verdict)),
        el(
            "p",
            f"{result.target}, {result.target_version}",
            "; for comparison" if result.reference else "",
            class_="soft",
        ),
        el("p", f"Must hold: {result.must_hold}.") if result.must_hold else None,
        el("p", _counts(result), class_="note"),
        _checks(result, detailed),
        _times(result, scene),
        _overview(scene, detailed) if scene else None,
        _trials(scene, trials) if scene else None,
        class_="scenario",
        id=anchor("s", name),
    )


def _counts(result: Judgement) -> str:
    trials = f"{result.trials} trial{'s' if result.trials != 1 else ''}; " if result.trials else ""
    text = (
        f"{trials}{result.acknowledged:,} writes acknowledged, {result.refused:,} certainly not executed, "
        f"{result.unknown:,} with an unknown outcome; {result.read_back:,} read back on every node."
    )
    if result.resolution_ms is not None:
        text += f" Undisturbed traffic paused for up to {duration(result.resolution_ms)}"
        text += f", the lab itself was late by up to {duration(result.stall_ms)}." if result.stall_ms else "."
    return text


def _checks(result: Judgement, detailed: set[int]) -> Markup:
    name = name_of(result)
    rows = [_check(check, name, detailed) for check in result.checks]
    return join(
        [
            el("h3", "Checks"),
            el("div", table(("check", "verdict", "measured", "limit"), rows), class_="checks")
            if rows
            else el("p", "Nothing was checked.", class_="empty"),
        ]
    )


def _check(check: Check, name: str, detailed: set[int]) -> Markup:
    findings = None
    if check.verdict is not Verdict.PASS or check.findings:
        findings = finding_list(check, name, detailed)
    return el(
        "tr",
        el("th", check.name, scope="row"),
        el("td", badge(check.verdict)),
        el("td", check.measured, findings, data_l="measured"),
        el("td", check.threshold, data_l="limit"),
        id=anchor("c", name, check.name),
    )


def _times(result: Judgement, scene: Scene | None) -> Markup | None:
    measured = {metric: result.distributions[metric] for metric in in_order(result.distributions)}
    measured = {metric: values for metric, values in measured.items() if values}
    if not measured:
        return None
    rows = []
    for metric, values in measured.items():
        summary = summarize(values)
        limit = limit_ms(scene, metric)
        p99 = duration(summary.p99) + (" *" if summary.p99_is_maximum else "")
        cells = (f"{summary.n:,}", *map(duration, (summary.minimum, summary.p50)), p99, duration(summary.maximum))
        cells = (*cells, duration(limit) if limit is not None else "–")
        rows.append(
            el("tr", el("th", metric_words(metric), scope="row"), [el("td", cell, class_="num") for cell in cells])
        )
    head = ("time", "values", "shortest", "median", "p99", "longest", "limit")
    star = any(summarize(values).p99_is_maximum for values in measured.values())
    return join(
        [
            el("h3", "Times"),
            scroll(table(head, rows, numeric=range(1, 7)), "Times"),
            el("p", "* fewer than 100 values: the nearest-rank p99 is the maximum.", class_="note") if star else None,
        ]
    )


def _overview(scene: Scene, detailed: set[int]) -> Markup:
    begin_ns, end_ns = scene.view.span_ns
    heading = el("h3", "Over time")
    if end_ns <= begin_ns:
        return join([heading, el("p", "No operation and no event was recorded.", class_="empty")])
    name = scene.view.name
    faults = sum(window.fault for window in scene.windows)
    chart = draw(
        scene,
        Stretch(begin_ns, end_ns, begin_ns),
        name=f"{name} over time",
        summary=f"{len(scene.view.attempts):,} operations in {duration((end_ns - begin_ns) / 1e6)}, {faults} faults.",
        ok_limit=OVERVIEW_DOTS,
        links={number: anchor("t", name, number) for number in detailed},
    )
    numbers = " Numbers above are trials." if scene.rounds else ""
    caption = f"Shaded: from each fault until its window closes.{numbers} " + _caption(chart)
    return join([heading, LEGEND, el("figure", scroll(chart.svg, f"Chart of {name}"), el("figcaption", caption))])


def _caption(chart: Chart) -> str:
    drawn = chart.drawn
    total = drawn.ok_total + drawn.others_total
    text = f"{chart.operations:,} operations"
    if total < chart.operations:
        text += f", {total:,} dots that can be told apart"
    if drawn.ok_drawn < drawn.ok_total:
        text += (
            f"; of the acknowledged ones {drawn.ok_drawn:,} of {drawn.ok_total:,} are drawn, the fastest and slowest "
            "of every moment among them"
        )
    if drawn.others_drawn < drawn.others_total:
        text += f"; of the others {drawn.others_drawn:,} of {drawn.others_total:,} marks, thinned the same way"
    elif drawn.others_total:
        text += "; every one that failed or is unknown is there"
    return text + "."


def _trials(scene: Scene, trials: Sequence[Told]) -> Markup | None:
    if not scene.rounds:
        return None
    missing = len(scene.rounds) - len(trials)
    note = None
    if missing:
        note = (
            f"{missing} of {len(scene.rounds)} cannot be opened, to keep this file small; those that a finding names, "
            "the longest, the median and the shortest can. All are in the evidence."
        )
    told_in_full = {trial.number: trial.html for trial in trials}
    every = [told_in_full.get(shown.number) or _untold(shown) for shown in scene.rounds]
    return join(
        [
            el("h3", "Trials"),
            el(
                "p", "With the longest time without an acknowledged write. Open one to see it in detail.", class_="note"
            ),
            el("p", note, class_="note") if note else None,
            el("div", every, class_="trials"),
        ]
    )


def _legend() -> Markup:
    marks: Iterable[tuple[str, str, str]] = (
        ("o", "M7 6h0", "acknowledged"),
        ("f", "M4.5 3.5l5 5m0-5l-5 5", "certainly not executed"),
        ("u", "M7 3l3 5.2h-6z", "outcome unknown"),
        ("mf", "M3 3h8l-4 7z", "fault"),
        ("m", "M4 2.5l7 7m0-7l-7 7", "process ended"),
        ("m", "M4 1.5l7 4.5l-7 4.5z", "started, or goes on"),
    )
    items: list[Child] = [
        el("li", el("svg", el("path", class_=class_, d=path), viewBox="0 0 14 12", aria_hidden="true"), text)
        for class_, path, text in marks
    ]
    items.append(
        el(
            "li",
            el(
                "svg",
                trusted('<rect class="w" x="1" y="1" width="12" height="10"/>'),
                viewBox="0 0 14 12",
                aria_hidden="true",
            ),
            "a fault's window",
        )
    )
    return el("ul", items, class_="legend")


LEGEND = _legend()


def detailed_numbers(told_by_scenario: Mapping[str, Sequence[Told]]) -> dict[str, set[int]]:
    """For each scenario, the trials that are told in full."""
    return {name: {trial.number for trial in trials} for name, trials in told_by_scenario.items()}
