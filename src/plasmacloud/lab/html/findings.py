"""What went wrong, in the words of the checks, with the operations behind it."""

import re
from collections.abc import Iterator, Mapping, Sequence

from plasmacloud.lab.html.counterexample import CHECK as COUNTEREXAMPLE_CHECK
from plasmacloud.lab.html.frame import Scene
from plasmacloud.lab.html.markup import Child, Markup, el, join
from plasmacloud.lab.html.moments import operations
from plasmacloud.lab.html.source import Attempt
from plasmacloud.lab.html.words import anchor, badge, name_of
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Check, Verdict

SHOWN = 5
_MAX_BEHIND = 6
_TRIAL = re.compile(r"\btrial[ -]0*(\d+)\b")
_WORD = re.compile(r"[^\s,;()'\"]+")


def trials_named(check: Check) -> list[int]:
    """The trials that a check's findings name."""
    return [int(match) for finding in check.findings for match in _TRIAL.findall(finding)]


def finding_list(check: Check, name: str, detailed: set[int], limit: int | None = None) -> Markup | None:
    """All findings of a check, or the first few; a trial that is told in full is linked."""
    shown = check.findings if limit is None else check.findings[:limit]
    if not shown:
        return None
    items: list[Child] = [el("li", _linked(finding, name, detailed)) for finding in shown]
    if len(shown) < len(check.findings):
        target = f"#{anchor('c', name, check.name)}"
        items.append(el("li", el("a", f"{len(check.findings) - len(shown)} more lines", href=target)))
    return el("ul", items, class_="findings")


def _linked(finding: str, name: str, detailed: set[int]) -> Iterator[Child]:
    at = 0
    for match in _TRIAL.finditer(finding):
        trial = int(match[1])
        if trial in detailed:
            yield finding[at : match.start()]
            yield el("a", match[0], href=f"#{anchor('t', name, trial)}")
            at = match.end()
    yield finding[at:]


def wrong(
    results: Sequence[Judgement],
    scenes: Mapping[str, Scene],
    detailed: Mapping[str, set[int]],
    counterexamples: Mapping[str, Markup],
) -> Markup | None:
    """Every check that did not pass, with the counterexample if there is one; None when all passed."""
    parts: list[Markup | None] = []
    for result in results:
        name = name_of(result)
        for check in result.checks:
            if check.verdict is not Verdict.PASS:
                parts.append(_problem(result, check, scenes.get(name), detailed.get(name, set())))
                if check.name == COUNTEREXAMPLE_CHECK:
                    parts.append(counterexamples.get(name))
    return join(parts) if parts else None


def _problem(result: Judgement, check: Check, scene: Scene | None, detailed: set[int]) -> Markup:
    name = name_of(result)
    head = el(
        "h3",
        badge(check.verdict),
        " ",
        el("a", f"{result.scenario} · {check.name}", href=f"#{anchor('c', name, check.name)}"),
        el("span", f" on {result.target}{', for comparison only' if result.reference else ''}", class_="soft"),
    )
    measured = el("p", check.measured, el("span", f" (limit: {check.threshold})", class_="soft"))
    return join([head, measured, finding_list(check, name, detailed, SHOWN), _behind(check, scene)])


def _behind(check: Check, scene: Scene | None) -> Markup | None:
    """The operations whose keys the findings name."""
    attempts = operations_named(check, scene.view.attempts) if scene is not None else []
    if scene is None or not attempts:
        return None
    faults = {shown.number: shown.fault_ns for shown in scene.rounds}
    origin_ns = faults.get(attempts[0].trial, attempts[0].invoke_ns)
    caption = (
        f"Times relative to the fault of trial {attempts[0].trial}" if attempts[0].trial in faults else "Relative times"
    )
    rows = operations(attempts[:_MAX_BEHIND], origin_ns, caption)
    return el("details", el("summary", "the operations behind it"), el("div", rows, class_="excerpt"), class_="more")


def operations_named(check: Check, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Operations on the keys that a check's findings mention, in the order of the findings."""
    words = dict.fromkeys(word.rstrip(":.") for finding in check.findings for word in _WORD.findall(finding))
    by_key: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.key in words:
            by_key.setdefault(attempt.key, []).append(attempt)
    return [attempt for word in words for attempt in by_key.get(word, ())]
