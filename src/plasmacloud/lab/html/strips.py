"""Distributions as they are: one dot for each trial on a logarithmic axis, the median and the limit marked.

With ten or twenty values there is nothing to summarise: the reader sees them all. The same drawing, with its own
colours, is written as a file of its own for other documents.
"""

from collections.abc import Sequence

import msgspec

from plasmacloud.lab.html.markup import Child, Markup, el, join, number, trusted
from plasmacloud.lab.html.scales import Log, duration, log_around, tick_label
from plasmacloud.lab.html.style import SVG_STYLE
from plasmacloud.verify.statistics import Summary, nearest_rank, summarize

WIDTH = 960.0
MAX_DOTS = 120
_NAME_PX, _TEXT_PX = 236.0, 176.0
_ROW, _HEAD, _AXIS = 30.0, 8.0, 28.0


class Strip(msgspec.Struct, frozen=True):
    """One row. Values and the limit in milliseconds; ``note`` stands in front of the name, for those compared with."""

    name: str
    values: list[float]
    limit_ms: float | None = None
    reference: bool = False
    link: str | None = None


def draw_strips(strips: Sequence[Strip], *, title: str) -> Markup:
    """The rows over one axis."""
    height = _HEAD + _ROW * len(strips) + _AXIS
    bottom = height - _AXIS
    x = _scale(strips)
    parts = [
        el("title", title),
        *(_tick(tick, x, bottom) for tick in x.ticks()),
        *(_row(strip, x, _HEAD + _ROW * (index + 0.5)) for index, strip in enumerate(strips)),
    ]
    return el(
        "svg",
        parts,
        class_="strips",
        viewBox=f"0 0 {number(WIDTH)} {number(height)}",
        role="img",
        aria_label=f"{title}. " + " ".join(f"{strip.name}: {_in_words(strip)}." for strip in strips),
    )


def standalone(strips: Sequence[Strip], *, title: str, subtitle: str) -> str:
    """The same as a file: with a title, its own colours for light and dark, and nothing from anywhere else."""
    inner = draw_strips(strips, title=title)
    height = 46 + _HEAD + _ROW * len(strips) + _AXIS
    document = el(
        "svg",
        el("style", trusted(SVG_STYLE)),
        el("rect", class_="paper", width="100%", height="100%", rx="6"),
        el("text", title, class_="st", x="12", y="24"),
        el("text", subtitle, class_="t", x="12", y="42"),
        trusted(
            inner.replace("<svg ", f'<svg x="12" y="50" width="{number(WIDTH)}" height="{number(height - 46)}" ', 1)
        ),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {number(WIDTH + 24)} {number(height + 8)}",
        width=WIDTH + 24,
        height=height + 8,
    )
    return document + "\n"


def _scale(strips: Sequence[Strip]) -> Log:
    values = [max(value, 0.01) for strip in strips for value in strip.values]
    limits = [strip.limit_ms for strip in strips if strip.limit_ms]
    everything = [*values, *limits] or [1.0]
    return log_around(everything, _NAME_PX, WIDTH - _TEXT_PX, least=min(everything), most=max(everything))


def _tick(tick: float, x: Log, bottom: float) -> Markup:
    at = x(tick)
    return join(
        [
            el("path", class_="g", d=f"M{number(at)} {number(_HEAD)}V{number(bottom)}"),
            el("text", tick_label(tick), class_="t", x=at, y=bottom + 18, text_anchor="middle"),
        ]
    )


def _row(strip: Strip, x: Log, middle: float) -> Markup:
    name = el("text", strip.name, class_="sn ref" if strip.reference else "sn", x="0", y=middle + 4)
    parts: list[Child] = [
        el("a", name, href=f"#{strip.link}", tabindex="-1") if strip.link else name,
        el("path", class_="d", d=f"M{number(_NAME_PX)} {number(middle)}H{number(WIDTH - _TEXT_PX)}"),
    ]
    if strip.limit_ms:
        at = x(strip.limit_ms)
        parts.append(
            el(
                "path",
                el("title", f"limit {duration(strip.limit_ms)}"),
                class_="lim",
                d=f"M{number(at)} {number(middle - 11)}v22m0-22h-5m5 22h-5",
            )
        )
    if strip.values:
        summary = summarize(strip.values)
        shown = drawn_values(strip.values)
        over = [value for value in shown if strip.limit_ms and value > strip.limit_ms]
        parts += [
            _dots([value for value in shown if value not in over], "sd ref" if strip.reference else "sd", x, middle),
            _crosses(over, x, middle),
            el("path", class_="med", d=f"M{number(x(summary.p50))} {number(middle - 8)}v16"),
            el("text", _numbers(summary), class_="sv", x=WIDTH, y=middle + 4, text_anchor="end"),
        ]
    return join(parts)


def drawn_values(values: Sequence[float]) -> list[float]:
    """All values, or so many quantiles of them, the extremes among them."""
    if len(values) <= MAX_DOTS:
        return sorted(values)
    return [min(values), *(nearest_rank(values, (index + 1) / MAX_DOTS) for index in range(MAX_DOTS))]


def _dots(values: Sequence[float], class_: str, x: Log, middle: float) -> Markup | None:
    path = "".join(f"M{number(x(value))} {number(middle)}h0" for value in values)
    return el("path", class_=class_, d=path) if path else None


def _crosses(values: Sequence[float], x: Log, middle: float) -> Markup | None:
    path = "".join(f"M{number(x(value))} {number(middle)}m-4-4l8 8m0-8l-8 8" for value in values)
    return el("path", class_="f", d=path) if path else None


def _numbers(summary: Summary) -> str:
    if summary.n == 1:
        return f"{duration(summary.maximum)}  (1)"
    return f"{duration(summary.p50)} · {duration(summary.maximum)}  ({summary.n})"


def _in_words(strip: Strip) -> str:
    if not strip.values:
        return "not measured"
    summary = summarize(strip.values)
    limit = f", limit {duration(strip.limit_ms)}" if strip.limit_ms else ""
    return f"median {duration(summary.p50)}, longest {duration(summary.maximum)}, {summary.n} values{limit}"
