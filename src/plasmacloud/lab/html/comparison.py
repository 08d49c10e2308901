"""This run beside an earlier one, and its targets beside each other."""

from collections.abc import Sequence

from plasmacloud.lab.html.markup import Child, Markup, el, join
from plasmacloud.lab.html.scales import duration
from plasmacloud.lab.html.words import badge, scroll, table
from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.report_comparison import LEAST_VALUES, Change, Comparison, TimeChange, VerdictChange
from plasmacloud.lab.report_metrics import in_order, metric_words
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.statistics import Summary, summarize

_CLASSES = {Change.SLOWER: "FAIL", Change.FASTER: "PASS"}
_SIGNS = {Change.SLOWER: "▲ ", Change.FASTER: "▼ "}


def baseline(comparison: Comparison, earlier: str) -> Markup:
    """The whole section about an earlier run; ``earlier`` says which."""
    return join(
        [
            el("p", f"Compared with {earlier}.", class_="soft"),
            _only(comparison),
            _circumstances(comparison),
            _verdicts(comparison.verdicts),
            _times(comparison.times),
        ]
    )


def _only(comparison: Comparison) -> Markup | None:
    parts = []
    if comparison.only_before:
        parts.append(f"Only in the earlier run: {', '.join(comparison.only_before)}.")
    if comparison.only_after:
        parts.append(f"Only in this run: {', '.join(comparison.only_after)}.")
    return el("p", " ".join(parts), class_="note") if parts else None


def _circumstances(comparison: Comparison) -> Markup | None:
    if not comparison.circumstances:
        return el("p", "Both runs are of the same commit, on the same machine and system.", class_="note")
    rows = [
        el("tr", el("th", fact, scope="row"), el("td", before), el("td", after))
        for fact, before, after in comparison.circumstances
    ]
    caption = "What else is different, and may be the reason for a difference below"
    return scroll(table(("fact", "earlier", "now"), rows, caption=caption), caption)


def _verdicts(changes: Sequence[VerdictChange]) -> Markup:
    if not changes:
        return join([el("h3", "Verdicts"), el("p", "No verdict changed.", class_="empty")])
    rows = [
        el(
            "tr",
            el("th", change.name, scope="row"),
            el("td", change.check or "the scenario"),
            el("td", _verdict(change.before)),
            el("td", _verdict(change.after)),
        )
        for change in changes
    ]
    return join(
        [el("h3", "Verdicts"), scroll(table(("scenario", "check", "earlier", "now"), rows), "Changed verdicts")]
    )


def _verdict(verdict: Verdict | None) -> Child:
    return badge(verdict) if verdict is not None else el("span", "not there", class_="soft")


def _times(changes: Sequence[TimeChange]) -> Markup:
    if not changes:
        return join([el("h3", "Times"), el("p", "No time was measured in both runs.", class_="empty")])
    rows: list[Markup] = []
    group = ""
    for change in changes:
        if change.name != group:
            group = change.name
            rows.append(el("tr", el("th", group, scope="rowgroup", colspan="6"), class_="group"))
        rows.append(_time(change))
    head = ("time", "earlier: median · longest (n)", "now: median · longest (n)", "median", "chance", "says")
    note = (
        "Slower and faster are said only where a rank-sum test finds the difference at the 1 % level and the medians "
        f"are at least 10 % apart. With fewer than {LEAST_VALUES} values on either side nothing is said. Chance: how "
        "often such a difference would appear if there were none; among many rows, one in a hundred does."
    )
    return join(
        [
            el("h3", "Times"),
            scroll(table(head, rows, numeric=(1, 2, 3, 4)), "Times of both runs"),
            el("p", note, class_="note"),
        ]
    )


def _time(change: TimeChange) -> Markup:
    word = f"{_SIGNS.get(change.change, '')}{change.change.value}"
    class_ = _CLASSES.get(change.change)
    return el(
        "tr",
        el("th", metric_words(change.metric), scope="row"),
        el("td", _numbers(change.before), class_="num"),
        el("td", _numbers(change.after), class_="num"),
        el("td", _difference(change), class_="num"),
        el("td", _chance(change.chance), class_="num"),
        el("td", el("span", word, class_=f"badge {class_}") if class_ else el("span", word, class_="soft")),
    )


def _numbers(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{duration(summary.p50)} · {duration(summary.maximum)} ({summary.n:,})"


def _difference(change: TimeChange) -> str:
    if change.before is None or change.after is None or not change.before.p50:
        return "–"
    share = change.after.p50 / change.before.p50 - 1
    return f"{share:+.0%}".replace("-", "−").replace("%", " %")


def _chance(chance: float | None) -> str:
    if chance is None:
        return "–"
    return "< 0.001" if chance < 0.001 else f"{chance:.3f}"


def side_by_side(results: Sequence[Judgement]) -> Markup | None:
    """Scenarios that ran on more than one target, time by time."""
    targets = list(dict.fromkeys(result.target for result in results))
    by_scenario: dict[str, dict[str, Judgement]] = {}
    for result in results:
        by_scenario.setdefault(result.scenario, {})[result.target] = result
    rows: list[Markup] = []
    for scenario, each in by_scenario.items():
        if len(each) < 2:
            continue
        rows.append(el("tr", el("th", scenario, scope="rowgroup", colspan=len(targets) + 1), class_="group"))
        for metric in in_order(metric for result in each.values() for metric in result.distributions):
            cells = [_cell(each.get(target), metric) for target in targets]
            if sum(cell != "–" for cell in cells) > 1:
                rows.append(
                    el("tr", el("th", metric_words(metric), scope="row"), [el("td", c, class_="num") for c in cells])
                )
    if not rows:
        return None
    head: list[Child] = ["median · longest (values)", *targets]
    return scroll(table(head, rows, numeric=range(1, len(head))), "Targets side by side")


def _cell(result: Judgement | None, metric: str) -> str:
    values = result.distributions.get(metric) if result else None
    return _numbers(summarize(values)) if values else "–"
