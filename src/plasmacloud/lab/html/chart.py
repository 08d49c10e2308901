"""The panels of one stretch of time, as one SVG: latency of every operation, write rate, leader, and each process.

All panels share one time axis, and everything that was done to the system is shaded across all of them. Shape tells
outcomes apart as well as colour: a dot was acknowledged, a cross certainly not executed, a triangle nobody knows.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from plasmacloud.lab.html.markup import Markup, el, join, number
from plasmacloud.lab.html.scales import Linear, Log, duration, log_around, tick_label
from plasmacloud.lab.html.source import Attempt, Moment, View
from plasmacloud.lab.html.thinning import Dot, Thinned, thin
from plasmacloud.lab.html.timeline import Reign, Round, Span, Window, describe

WIDTH = 960.0
LEFT, RIGHT = 66.0, WIDTH - 10
_TOP, _LATENCY, _RATE, _LANE, _AXIS, _SPACE = 20.0, 150.0, 40.0, 19.0, 26.0, 12.0
_BIN_PX = 4.0
_WRITES_PER_BIN = 8
_LABEL_PX = 14.0
_CHARACTER_PX = 6.6
_SHAPES = {
    "ok": ("o", "M{} {}h0"),
    "fail": ("f", "M{} {}m-2.5-2.5l5 5m0-5l-5 5"),
    "info": ("u", "M{} {}m0-3l3 5.2h-6z"),
}
_MARKED = {
    "fault-injected": "M-4-5h8l-4 7z",
    "process-ended": "M-3.5-3.5l7 7m0-7l-7 7",
    "unexpected-exit": "M-3.5-3.5l7 7m0-7l-7 7",
    "removed-ended": "M-3.5-3.5l7 7m0-7l-7 7",
    "node-restarted": "M-3-4.5l7 4.5l-7 4.5z",
    "node-started": "M-3-4.5l7 4.5l-7 4.5z",
    "node-thawed": "M-3-4.5l7 4.5l-7 4.5z",
}


class Scene(msgspec.Struct, frozen=True):
    """A scenario with all that was put together about it."""

    view: View
    windows: list[Window]
    lives: dict[str, list[Span]]
    reigns: list[Reign]
    rounds: list[Round]


class Stretch(msgspec.Struct, frozen=True):
    """A part of the time axis; ``origin_ns`` is its zero. ``gap_of``: the trial whose outage is marked."""

    begin_ns: int
    end_ns: int
    origin_ns: int
    gap_of: Round | None = None


class Chart(msgspec.Struct, frozen=True):
    """The drawing and what its caption must say."""

    svg: Markup
    drawn: Thinned
    operations: int


def draw(scene: Scene, stretch: Stretch, *, name: str, summary: str, ok_limit: int, links: Mapping[int, str]) -> Chart:
    """The chart of one stretch. ``links``: where a trial, or a moment (by its time), is told in full."""
    x = Linear(_ms(stretch.begin_ns, stretch), _ms(stretch.end_ns, stretch), LEFT, RIGHT)
    attempts = _within(scene.view.attempts, stretch)
    top = _TOP
    y = _latency_scale(attempts, scene.view.settings.op_timeout_ms, top)
    dots = thin([_dot(attempt, x, y, stretch) for attempt in attempts], ok_limit)
    rate_top = top + _LATENCY + _SPACE
    lanes_top = rate_top + _RATE + _SPACE
    nodes = list(scene.lives)
    bottom = lanes_top + _LANE * (1 + len(nodes))
    height = bottom + _AXIS
    parts = [
        el("title", name, id=f"{name}-t"),
        el("desc", summary),
        _shading(scene.windows, x, stretch, bottom),
        _time_axis(x, bottom),
        _latency_axis(y),
        _dots(dots),
        _rate(attempts, x, stretch, rate_top, scene.view.settings.rate_per_s),
        _leader_lane(scene.reigns, x, stretch, lanes_top),
        *(_node_lane(node, scene, x, stretch, lanes_top + _LANE * (1 + row), links) for row, node in enumerate(nodes)),
        _outage(stretch, x, top) if stretch.gap_of else _window_labels(scene.windows, x, stretch, links),
    ]
    svg = el(
        "svg",
        parts,
        class_="chart",
        viewBox=f"0 0 {number(WIDTH)} {number(height)}",
        role="img",
        aria_label=f"{name}. {summary}",
        data_x=f"{number(x.start)} {number(x.end)} {x.low:.4f} {x.high:.4f}",
        data_y=f"{number(y.start)} {number(y.end)} {y.low:.5f} {y.high:.5f}",
        data_bottom=bottom,
    )
    return Chart(svg, dots, len(attempts))


def _ms(at_ns: int, stretch: Stretch) -> float:
    return (at_ns - stretch.origin_ns) / 1e6


def _within(attempts: list[Attempt], stretch: Stretch) -> list[Attempt]:
    first = bisect_left(attempts, stretch.begin_ns, key=lambda attempt: attempt.invoke_ns)
    return attempts[first : bisect_right(attempts, stretch.end_ns, key=lambda attempt: attempt.invoke_ns)]


def _latency_scale(attempts: list[Attempt], timeout_ms: float, top: float) -> Log:
    latencies = [max(attempt.latency_ms, 0.05) for attempt in attempts]
    return log_around(latencies, top + _LATENCY, top, least=0.7, most=max(100.0, timeout_ms))


def _dot(attempt: Attempt, x: Linear, y: Log, stretch: Stretch) -> Dot:
    return Dot(
        x(_ms(attempt.invoke_ns, stretch)),
        y(attempt.latency_ms),
        attempt.outcome if attempt.outcome in _SHAPES else "info",
    )


def _dots(thinned: Thinned) -> Iterable[Markup]:
    for outcome, (class_, shape) in _SHAPES.items():
        path = "".join(shape.format(number(dot.x), number(dot.y)) for dot in thinned.dots if dot.outcome == outcome)
        if path:
            yield el("path", class_=class_, d=path)


def _shading(windows: list[Window], x: Linear, stretch: Stretch, bottom: float) -> Iterable[Markup]:
    for window in _visible(windows, stretch):
        left, right = x(_ms(window.begin_ns, stretch)), x(_ms(window.end_ns, stretch))
        yield el(
            "rect",
            el("title", window.label),
            class_="w" if window.fault else "h",
            x=left,
            y=_TOP,
            width=max(1.0, right - left),
            height=bottom - _TOP,
        )
        if window.fault and window.begin_ns >= stretch.begin_ns:
            yield el("path", class_="fl", d=f"M{number(left)} {number(_TOP - 4)}V{number(bottom)}")


def _visible(windows: list[Window], stretch: Stretch) -> list[Window]:
    return [w for w in windows if w.end_ns >= stretch.begin_ns and w.begin_ns <= stretch.end_ns]


def _window_labels(windows: list[Window], x: Linear, stretch: Stretch, links: Mapping[int, str]) -> Iterable[Markup]:
    free = LEFT
    for window in _visible(windows, stretch):
        left = max(LEFT, x(_ms(window.begin_ns, stretch)))
        text = str(window.trial) if window.trial else window.label
        if left < free:
            continue
        free = left + max(_LABEL_PX, len(text) * _CHARACTER_PX + 6)
        label = el("text", text, class_="wl", x=left, y=_TOP - 8)
        yield _linked(label, links.get(window.trial))


def _linked(content: Markup, target: str | None) -> Markup:
    # The list of what happened has the same links for those who cannot point: here they would only be in the way.
    return el("a", content, href=f"#{target}", tabindex="-1") if target else content


def _outage(stretch: Stretch, x: Linear, top: float) -> Markup | None:
    shown = stretch.gap_of
    if shown is None:
        return None
    fault = x(_ms(shown.fault_ns, stretch))
    label = el("text", shown.label, class_="wl", x=fault, y=top - 8)
    if shown.gap is None or shown.gap.length_ms <= 0:
        return label
    left, right = x(_ms(shown.gap.begin_ns, stretch)), x(_ms(shown.gap.end_ns, stretch))
    text = f"{'at least ' if shown.gap.open else ''}{duration(shown.gap.length_ms)} without an acknowledged write"
    fits = right + 8 + len(text) * _CHARACTER_PX < RIGHT
    where = {"x": right + 8} if fits else {"x": RIGHT, "text_anchor": "end"}
    bracket = f"M{number(left)} {number(top + 5)}v8m0-4H{number(max(right, left + 1))}m0-4v8"
    return join([label, el("path", class_="gap", d=bracket), el("text", text, class_="gl", y=top + 13, **where)])


def _time_axis(x: Linear, bottom: float) -> Iterable[Markup]:
    for tick in x.ticks(9):
        at = number(x(tick))
        yield el("path", class_="g", d=f"M{at} {number(_TOP)}V{number(bottom)}")
        yield el("text", tick_label(round(tick, 6)), class_="t", x=at, y=bottom + 16, text_anchor="middle")


def _latency_axis(y: Log) -> Iterable[Markup]:
    yield el("text", "latency", class_="p", x="0", y=_TOP + 10)
    for tick in y.ticks():
        at = y(tick)
        yield el("path", class_="g", d=f"M{number(LEFT)} {number(at)}H{number(RIGHT)}")
        yield el("text", tick_label(tick), class_="t", x=LEFT - 6, y=at + 4, text_anchor="end")


def _rate(attempts: list[Attempt], x: Linear, stretch: Stretch, top: float, per_s: float) -> Iterable[Markup]:
    """Acknowledged writes per second, in columns of a few pixels that expect a few writes each."""
    per_bin_ms = _WRITES_PER_BIN * 1000 / per_s if per_s else 0.0
    bins = max(1, min(int((RIGHT - LEFT) / _BIN_PX), int((x.high - x.low) / per_bin_ms) if per_bin_ms else 10**6))
    bin_ms, bin_px = (x.high - x.low) / bins, (RIGHT - LEFT) / bins
    counts = [0] * bins
    for attempt in attempts:
        if attempt.outcome == "ok" and attempt.kind == "write" and attempt.return_ns <= stretch.end_ns:
            counts[min(bins - 1, int((_ms(attempt.return_ns, stretch) - x.low) / bin_ms))] += 1
    bottom = top + _RATE
    yield el("text", "writes/s", class_="p", x="0", y=top + 10)
    most = max(counts)
    yield el("path", class_="ax", d=f"M{number(LEFT)} {number(bottom)}H{number(RIGHT)}")
    if not most:
        yield el("text", "no write was acknowledged", class_="t", x=LEFT + 4, y=bottom - 6)
        return
    yield el("text", f"{most / bin_ms * 1000:,.0f}", class_="t", x=LEFT - 6, y=top + 24, text_anchor="end")
    steps = [f"M{number(LEFT)} {number(bottom)}"]
    height = bottom
    for index, count in enumerate(counts):
        level = bottom - count / most * _RATE
        if level != height:
            steps.append(f"H{number(LEFT + index * bin_px)}V{number(level)}")
            height = level
    steps.append(f"H{number(RIGHT)}V{number(bottom)}z")
    yield el("path", class_="r", d="".join(steps))


def _leader_lane(reigns: list[Reign], x: Linear, stretch: Stretch, top: float) -> Iterable[Markup]:
    yield el("text", "leader", class_="p", x="0", y=top + 13)
    shown = [reign for reign in reigns if reign.end_ns >= stretch.begin_ns and reign.begin_ns <= stretch.end_ns]
    if not shown:
        yield el("text", "no node named one", class_="t", x=LEFT + 4, y=top + 13)
    for index, reign in enumerate(shown):
        left, right = x(_ms(reign.begin_ns, stretch)), x(_ms(reign.end_ns, stretch))
        full = f"{reign.leader}, term {reign.term}"
        yield el(
            "rect",
            el("title", f"{full}: {duration((reign.end_ns - reign.begin_ns) / 1e6)}"),
            class_="l" if index % 2 else "l k",
            x=left,
            y=top + 2,
            width=max(0.8, right - left - 1),
            height=_LANE - 4,
        )
        room = (right - left - 8) / _CHARACTER_PX
        text = full if len(full) <= room else reign.leader if len(reign.leader) <= room else ""
        if text:
            yield el("text", text, class_="lt", x=left + 5, y=top + 13.5)


def _node_lane(
    node: str, scene: Scene, x: Linear, stretch: Stretch, top: float, links: Mapping[int, str]
) -> Iterable[Markup]:
    middle = top + _LANE / 2
    yield el("text", node, class_="p", x="0", y=middle + 4)
    yield el("path", class_="d", d=f"M{number(LEFT)} {number(middle)}H{number(RIGHT)}")
    for span in scene.lives[node]:
        if span.end_ns < stretch.begin_ns or span.begin_ns > stretch.end_ns:
            continue
        left, right = x(_ms(span.begin_ns, stretch)), x(_ms(span.end_ns, stretch))
        yield el(
            "rect",
            el("title", f"{node} {span.state}"),
            class_="z" if span.state == "frozen" else "n",
            x=left,
            y=middle - 3,
            width=max(0.8, right - left),
            height="6",
        )
    for moment in scene.view.moments:
        if node in moment.nodes and moment.kind in _MARKED and stretch.begin_ns <= moment.at_ns <= stretch.end_ns:
            yield _mark(moment, x(_ms(moment.at_ns, stretch)), middle, links)


def _mark(moment: Moment, left: float, middle: float, links: Mapping[int, str]) -> Markup:
    class_ = "mf" if moment.kind == "fault-injected" else "m"
    shape = el(
        "path",
        el("title", describe(moment)),
        class_=class_,
        d=_MARKED[moment.kind],
        transform=f"translate({number(left)} {number(middle)})",
    )
    return _linked(shape, links.get(moment.at_ns) or links.get(moment.trial))
