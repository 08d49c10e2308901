"""Measured rows as one SVG figure: rates and CPU, the systems beside each other, legible on light and dark pages.

Text and axes take their colour from the reader's colour scheme (a media query inside the figure), bars have colours
that stand out from both. Every number is a median of the samples given; nothing is rounded but for the labels.
"""

from collections.abc import Callable, Sequence
from xml.sax.saxutils import escape

from bench.harness import Row, Sample

WIDTH = 880
_LEFT, _GAP, _RIGHT = 120, 90, 70  # room for names, between the panels, for the last label
_BAR, _SPACE, _TOP = 15, 14, 74
_COLOURS = ("#7a8794", "#0b8a6f", "#b3541e", "#5b5fc7")
_STYLE = """
    text { font: 12px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #1f2328 }
    .title { font-size: 13px; font-weight: 600 }
    .note { font-size: 11px; fill: #59636e }
    .axis { stroke: #8c959f; stroke-width: 1 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 }
      .note { fill: #9198a1 }
    }
"""
_PANELS: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("operations per second (more is better)", lambda sample: sample.rate_per_s),
    ("server CPU per operation, µs (less is better)", lambda sample: sample.cpu_us),
)


def chosen(rows: Sequence[Row]) -> list[Row]:
    """Of each operation one row: that of the first generator, with the most in flight."""
    best: dict[str, Row] = {}
    for row in rows:
        known = best.get(row.operation)
        if known is None or (row.generator == known.generator and row.in_flight > known.in_flight):
            best[row.operation] = row
    return list(best.values())


def draw(rows: Sequence[Row], versions: dict[str, str], note: str) -> str:
    """The figure. ``versions``: name and version of each system, in the order of the bars."""
    shown = chosen(rows)
    assert shown, "nothing was measured"
    systems = list(versions)
    group = len(systems) * _BAR + _SPACE
    height = _TOP + len(shown) * group + 34
    panel = (WIDTH - _LEFT - _GAP - _RIGHT) / 2
    parts = [_text(_LEFT, 16, note, "note")]
    parts += _legend(systems, versions)
    for number, (title, value) in enumerate(_PANELS):
        left = _LEFT + number * (panel + _GAP)
        parts.append(_text(left, _TOP - 12, title, "title"))
        parts += _bars(shown, systems, value, left, panel, names=number == 0)
        parts.append(f'<line class="axis" x1="{left}" y1="{_TOP}" x2="{left}" y2="{_TOP + len(shown) * group}"/>')
    body = "\n  ".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img">\n  <title>{escape(" and ".join(systems))}: rates and CPU</title>\n'
        f"  <style>{_STYLE}  </style>\n  {body}\n</svg>\n"
    )


def _bars(
    rows: Sequence[Row], systems: list[str], value: Callable[[Sample], float], left: float, width: float, *, names: bool
) -> list[str]:
    medians = [row.medians() for row in rows]
    largest = max(value(sample) for samples in medians for sample in samples.values())
    parts = []
    top = float(_TOP)
    for row, samples in zip(rows, medians, strict=True):
        if names:
            middle = top + len(systems) * _BAR / 2
            parts.append(_text(left - 10, middle + 1, row.operation, anchor="end"))
            parts.append(_text(left - 10, middle + 14, f"{row.in_flight} in flight", "note", anchor="end"))
        for number, system in enumerate(systems):
            if system not in samples:
                continue
            size = value(samples[system])
            y = top + number * _BAR
            length = max(1.0, size / largest * width) if largest else 1.0
            colour = _COLOURS[number % len(_COLOURS)]
            parts.append(
                f'<rect x="{left}" y="{y:.1f}" width="{length:.1f}" height="{_BAR - 2}" rx="2" fill="{colour}"/>'
            )
            parts.append(_text(left + length + 5, y + _BAR - 4, f"{size:,.0f}"))
        top += len(systems) * _BAR + _SPACE
    return parts


def _legend(systems: list[str], versions: dict[str, str]) -> list[str]:
    parts = []
    left = float(_LEFT)
    for number, system in enumerate(systems):
        label = f"{system} {versions[system]}"
        parts.append(
            f'<rect x="{left}" y="24" width="11" height="11" rx="2" fill="{_COLOURS[number % len(_COLOURS)]}"/>'
        )
        parts.append(_text(left + 16, 34, label))
        left += 40 + 7 * len(label)
    return parts


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    classes = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{classes}>{escape(text)}</text>'
