"""Scenarios across, checks down: where the run stands, at one look. Every cell leads to its check."""

from collections.abc import Sequence

from plasmacloud.lab.html.markup import Child, Markup, el, join
from plasmacloud.lab.html.words import MEANINGS, anchor, in_words, name_of, scroll, sign
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Check, Verdict


def matrix(results: Sequence[Judgement]) -> Markup:
    """The whole matrix with its key."""
    names = dict.fromkeys(check.name for result in results for check in result.checks)
    body = el(
        "table",
        el("thead", _targets(results), el("tr", el("td"), [_column(results, i) for i in range(len(results))])),
        el("tbody", _totals(results), [_row(name, results) for name in names]),
    )
    key = [
        el(
            "li",
            el("span", f"{sign(verdict)} {verdict.value}", class_=f"badge {verdict.value}"),
            " ",
            MEANINGS[verdict.value],
        )
        for verdict in Verdict
        if verdict.value in MEANINGS
    ]
    intro = el("p", "Every check of every scenario; a cell leads to what was measured.", class_="note")
    return join([intro, el("div", scroll(body, "Scenarios and checks"), class_="matrix"), el("ul", key, class_="key")])


def _first(results: Sequence[Judgement], index: int) -> bool:
    return index > 0 and results[index].target != results[index - 1].target


def _targets(results: Sequence[Judgement]) -> Markup | None:
    groups: list[tuple[str, int]] = []
    for index, result in enumerate(results):
        if index == 0 or _first(results, index):
            groups.append((f"{result.target}{' (for comparison)' if result.reference else ''}", 0))
        groups[-1] = (groups[-1][0], groups[-1][1] + 1)
    if len(groups) < 2:
        return None
    wide = [el("th", name if span > 2 else "", scope="colgroup", colspan=span) for name, span in groups]
    return el("tr", el("td"), wide)


def _column(results: Sequence[Judgement], index: int) -> Markup:
    result = results[index]
    # A narrow group has no room for its name above: the column says it.
    alone = sum(other.target == result.target for other in results) <= 2
    text = f"{result.target}: {result.scenario}" if alone and len({r.target for r in results}) > 1 else result.scenario
    link = el("a", text, href=f"#{anchor('s', name_of(result))}")
    return el(
        "th", el("span", link, class_="turn"), scope="col", class_="col first" if _first(results, index) else "col"
    )


def _totals(results: Sequence[Judgement]) -> Markup:
    cells = [
        _cell(
            result.verdict, f"#{anchor('s', name_of(result))}", f"{name_of(result)}: {result.verdict.value}", i, results
        )
        for i, result in enumerate(results)
    ]
    return el("tr", el("th", el("strong", "verdict"), scope="row"), cells)


def _row(name: str, results: Sequence[Judgement]) -> Markup:
    cells: list[Child] = []
    for index, result in enumerate(results):
        found = next((check for check in result.checks if check.name == name), None)
        if found is None:
            cells.append(el("td", class_="first" if _first(results, index) else None))
        else:
            cells.append(
                _cell(found.verdict, f"#{anchor('c', name_of(result), name)}", _says(result, found), index, results)
            )
    return el("tr", el("th", name, scope="row"), cells)


def _says(result: Judgement, check: Check) -> str:
    return f"{result.target} {result.scenario}, {check.name}: {check.verdict.value}. {check.measured}"


def _cell(verdict: Verdict, target: str, title: str, index: int, results: Sequence[Judgement]) -> Markup:
    link = el("a", in_words(verdict), href=target, title=title, class_=verdict.value)
    return el("td", link, class_="first" if _first(results, index) else None)
