"""Counterexamples as pictures: who did what when, in an SVG that explains itself beside the words.

`fragment` gives a ``<section>`` for somebody else's page, `style` the CSS that it needs once, `page` a whole file.
Nothing is loaded from anywhere and there is no script: what matters is text and shapes, with the details in the
tooltips that SVG titles are. Colours follow the reader's light or dark mode; on paper, bars are told by their borders.
"""

from collections.abc import Sequence
from html import escape

from plasmacloud.verify.counterexample import NS_PER_MS, begin_ns, headline, recent
from plasmacloud.verify.linearizability import Counterexample, Result
from plasmacloud.verify.model import describe
from plasmacloud.verify.operations import Operation
from plasmacloud.verify.search import Answer

SHOWN = 48
"""How many operations a picture has room for; the last ones before the prefix ends."""
_WIDTH = 960
_LEFT = 84
_RIGHT = 20
_TOP = 26
_LANE = 50
_BAR = 20
_OPEN = 16
_LETTER = 6.7
_LEAST_BAR = 5.0

_STYLE = """
.lin { --lin-ink: #1c2430; --lin-soft: #5d6878; --lin-line: #d5dbe3; --lin-done: #d7e6f7; --lin-done-edge: #3f74b0;
  --lin-open: #f1eee3; --lin-open-edge: #9a8336; --lin-bad: #fbd9d6; --lin-bad-edge: #c2261c; color: var(--lin-ink); }
@media (prefers-color-scheme: dark) { .lin { --lin-ink: #e3e8ef; --lin-soft: #98a4b5; --lin-line: #38414e;
  --lin-done: #20374f; --lin-done-edge: #6fa5e0; --lin-open: #35301d; --lin-open-edge: #c8ac52; --lin-bad: #551b18;
  --lin-bad-edge: #ff7b72; } }
.lin svg { width: 100%; min-width: 640px; height: auto; font: 11px ui-monospace, monospace; }
.lin .lin-scroll { overflow-x: auto; }
.lin text { fill: var(--lin-ink); } .lin .lin-axis, .lin .lin-client { fill: var(--lin-soft); }
.lin line { stroke: var(--lin-line); } .lin .lin-until { stroke: var(--lin-bad-edge); stroke-dasharray: 4 3; }
.lin rect { stroke-width: 1.2; } .lin .lin-done { fill: var(--lin-done); stroke: var(--lin-done-edge); }
.lin .lin-open { fill: var(--lin-open); stroke: var(--lin-open-edge); stroke-dasharray: 3 2; }
.lin .lin-bad { fill: var(--lin-bad); stroke: var(--lin-bad-edge); stroke-width: 2.4; }
.lin table { border-collapse: collapse; } .lin td, .lin th { padding: 2px 10px 2px 0; text-align: left; }
.lin td.lin-number { text-align: right; font-variant-numeric: tabular-nums; }
.lin tr.lin-row-bad td { font-weight: 700; }
.lin code { font-family: ui-monospace, monospace; } .lin .lin-note { color: var(--lin-soft); }
@media print { .lin .lin-scroll { overflow: visible; } .lin section, .lin svg { break-inside: avoid; }
  .lin rect { print-color-adjust: exact; } }
"""


def style() -> str:
    """The rules for `fragment`, without the ``<style>`` around them; every class begins with ``lin``."""
    return _STYLE


def fragment(result: Result, title: str = "Linearizability") -> str:
    """A ``<section class="lin">``: the verdict, and for each violation a picture and a table."""
    unknown = [part for part in result.parts if part.answer is Answer.UNKNOWN]
    words = [
        f"Objects ({escape(result.model)}): {len(result.parts)}. Operations: {result.operations}. Together they are "
        f"<strong>{escape(result.answer.value)}</strong>."
    ]
    words += [f"{escape(part.key)}: not decided within {escape(part.reason)}." for part in unknown]
    parts = [f'<section class="lin"><h2>{escape(title)}</h2><p>{" ".join(words)}</p>']
    parts += [_violation(example) for example in result.violations()]
    return "\n".join([*parts, "</section>"])


def page(result: Result, title: str = "Linearizability") -> str:
    """A complete HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><title>{escape(title)}</title>\n<style>body {{ font: 15px system-ui, sans-serif; '
        f"margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}{_STYLE}</style></head>\n"
        f"<body>{fragment(result, title)}</body></html>\n"
    )


def _violation(example: Counterexample) -> str:
    shown = recent(example, SHOWN)
    left = len(example.prefix) - len(shown)
    note = f"The picture shows the last {len(shown)} operations; {left} earlier ones are left out. " if left else ""
    return (
        f"<h3>{escape(headline(example))}</h3>"
        f'<p class="lin-note">{note}Numbers are places in an order that explains everything but the last return; '
        "what has a bold border has no place in any order; dashed bars were still open.</p>"
        f'<div class="lin-scroll">{_picture(example, shown)}</div>{_table(example)}'
    )


def _picture(example: Counterexample, shown: Sequence[Operation]) -> str:
    zero_ns = begin_ns(example)
    begin, end = min(op.invoke_ns for op in shown), example.until_ns
    span = max(1, end - begin)
    scale = (_WIDTH - _LEFT - _RIGHT) / (span * 1.06)
    lanes = {client: number for number, client in enumerate(sorted({op.client for op in shown}))}
    height = _TOP + len(lanes) * _LANE + 8
    places = {id(op): number for number, op in enumerate(_in_prefix(example), start=1)}
    marks = [
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(headline(example), quote=True)}">',
        *_axis(begin, span, zero_ns, scale, height),
    ]
    for client, lane in lanes.items():
        y = _TOP + lane * _LANE
        marks.append(f'<text class="lin-client" x="4" y="{y + 15}">client {client}</text>')
        marks.append(f'<line x1="{_LEFT}" y1="{y + _LANE - 4}" x2="{_WIDTH - _RIGHT}" y2="{y + _LANE - 4}"/>')
    until = _LEFT + span * scale
    marks.append(f'<line class="lin-until" x1="{until:.1f}" y1="{_TOP - 6}" x2="{until:.1f}" y2="{height}"/>')
    for op in shown:
        x = _LEFT + (op.invoke_ns - begin) * scale
        right = _WIDTH - _RIGHT if op.return_ns is None else _LEFT + (op.return_ns - begin) * scale
        marks.append(_bar(op, x, right, _TOP + lanes[op.client] * _LANE, zero_ns, example, places.get(id(op))))
    return "".join([*marks, "</svg>"])


def _in_prefix(example: Counterexample) -> list[Operation]:
    """The order, with the very objects of the prefix where they are the same operation."""
    same = {op: op for op in example.prefix}
    return [same.get(op, op) for op in example.order]


def _axis(begin: int, span: int, zero_ns: int, scale: float, height: int) -> list[str]:
    marks = []
    for part in range(5):
        at = begin + span * part // 4
        x = _LEFT + (at - begin) * scale
        marks.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{height}"/>')
        ms = (at - zero_ns) / NS_PER_MS
        anchor = "end" if part == 4 else "start"
        marks.append(f'<text class="lin-axis" x="{x:.1f}" y="12" text-anchor="{anchor}">{ms:.3f} ms</text>')
    return marks


def _bar(
    op: Operation, x: float, right: float, y: int, zero_ns: int, example: Counterexample, place: int | None
) -> str:
    # A client may go on while an operation of its is open: those have a track of their own below.
    track, tall = (y + _BAR + 4, _OPEN) if not op.known else (y, _BAR)
    kind = "lin-bad" if op in example.stuck else "lin-done" if op.known else "lin-open"
    width = max(_LEAST_BAR, right - x)
    words = describe(op.input, op.output)
    number = f"{place} · " if place else ""
    room = int((width - 6) / _LETTER)
    label = number + words
    label = label if len(label) <= room else (label[: room - 1] + "…" if room > 4 else "")
    title = f"client {op.client}: {words}, {_times(op, zero_ns)}"
    return (
        f'<g><title>{escape(title)}</title><rect class="{kind}" x="{x:.1f}" y="{track}" width="{width:.1f}" '
        f'height="{tall}" rx="3"/><text x="{x + 4:.1f}" y="{track + tall - 6}">{escape(label)}</text></g>'
    )


def _table(example: Counterexample) -> str:
    zero_ns = begin_ns(example)
    states = example.states[-12:]
    ordered = example.order[-len(states) :] if states else ()
    first = len(example.order) - len(ordered) + 1
    rows = [
        _row(str(first + number), op, zero_ns, state, "")
        for number, (op, state) in enumerate(zip(ordered, states, strict=True))
    ]
    rows += [_row("none", op, zero_ns, "impossible", "lin-row-bad") for op in example.stuck]
    return (
        "<table><thead><tr><th>place</th><th>client</th><th>operation</th><th>time</th><th>state after it</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _row(place: str, op: Operation, zero_ns: int, state: str, kind: str) -> str:
    return (
        f'<tr class="{kind}"><td class="lin-number">{place}</td><td>{op.client}</td>'
        f"<td><code>{escape(describe(op.input, op.output))}</code></td><td>{_times(op, zero_ns)}</td>"
        f"<td><code>{escape(state)}</code></td></tr>"
    )


def _times(op: Operation, zero_ns: int) -> str:
    end = "open" if op.return_ns is None else f"{(op.return_ns - zero_ns) / NS_PER_MS:.3f}"
    return f"{(op.invoke_ns - zero_ns) / NS_PER_MS:.3f} to {end} ms"
