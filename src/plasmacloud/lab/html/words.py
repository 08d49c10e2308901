"""Names, anchors and small marks that several parts of the page share."""

import re
from collections.abc import Sequence

from plasmacloud.lab.html.markup import Child, Markup, el, hidden
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Verdict

_SIGNS = {"PASS": "✓", "FAIL": "✕", "INCONCLUSIVE": "?", "VOID": "∅", "PARTIAL": "◐"}
MEANINGS = {
    "PASS": "held, and was observed to hold",
    "PARTIAL": "what matters most held, not everything",
    "INCONCLUSIVE": "no violation seen, no proof either",
    "VOID": "the experiment itself was worthless",
    "FAIL": "a violation was observed",
}


def name_of(result: Judgement) -> str:
    """TARGET/SCENARIO."""
    return f"{result.target}/{result.scenario}"


def anchor(*parts: object) -> str:
    """An id without characters that would need escaping in a link."""
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", str(part)).strip("-") for part in parts)


def sign(verdict: Verdict) -> str:
    """A sign that is told apart without colour."""
    return _SIGNS.get(verdict.value, "•")


def badge(verdict: Verdict) -> Markup:
    """Sign, word and colour."""
    return el(
        "span", el("span", f"{sign(verdict)} ", aria_hidden="true"), verdict.value, class_=f"badge {verdict.value}"
    )


def table(head: Sequence[Child], rows: Sequence[Markup], *, caption: str = "", numeric: Sequence[int] = ()) -> Markup:
    """A table with its head; ``numeric``: columns aligned to the right."""
    cells = [el("th", cell, scope="col", class_="num" if i in numeric else None) for i, cell in enumerate(head)]
    return el(
        "table",
        el("caption", caption) if caption else None,
        el("thead", el("tr", cells)),
        el("tbody", rows),
    )


def scroll(content: Child, label: str) -> Markup:
    """Something wider than a telephone: it scrolls on its own, also by keyboard."""
    return el("div", content, class_="scroll", tabindex="0", role="region", aria_label=label)


def in_words(verdict: Verdict) -> Markup:
    """The sign to see, the word to hear."""
    return el("span", el("span", sign(verdict), aria_hidden="true"), hidden(verdict.value))
