"""The panels of one stretch of time, as one SVG: latency of every operation, write rate, leader, and each process.

All panels share one time axis, and everything that was done to the system is shaded across all of them. Shape tells
outcomes apart as well as colour: a dot was acknowledged, a cross certainly not executed, a triangle nobody knows.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping

import msgspec

from plasmacloud.lab.html.frame import CHARACTER_PX, LANE, RIGHT, WIDTH, Frame, Scene, Stretch
from plasmacloud.lab.html.lanes import leader_lane, linked, node_lane
from plasmacloud.lab.html.markup import Markup, el, number
from plasmacloud.lab.html.scales import Linear, Log, duration, log_around, tick_label
from plasmacloud.lab.html.source import Attempt
from plasmacloud.lab.html.thinning import Dot, Thinned, thin
from plasmacloud.lab.html.timeline import Round, Window

_LEAST_LEFT, _MOST_LEFT = 66.0, 132.0
_TOP, _BRACKET, _LATENCY, _RATE, _AXIS, _SPACE = 20.0, 20.0, 150.0, 40.0, 26.0, 12.0
_BIN_PX = 4.0
_WRITES_PER_BIN = 8
_LABEL_PX = 14.0
_SHAPES = {
    "ok": ("o", "M{} {}h0"),
    "fail": ("f", "M{} {}m-2.5-2.5l5 5m0-5l-5 5"),
    "info": ("u", "M{} {}m0-3l3 5.2h-6z"),
}


class Chart(msgspec.Struct, frozen=True):
    """The drawing and what its caption must say."""

    svg: Markup
    drawn: Thinned
    operations: int


def draw(scene: Scene, stretch: Stretch, *, name: str, summary: str, ok_limit: int, links: Mapping[int, str]) -> Chart:
    """The chart of one stretch. ``links``: where a trial, or a moment (by its time), is told in full."""
    nodes = list(scene.lives)
    top = _TOP + (_BRACKET if stretch.gap_of else 0)
    rate_top = top + _LATENCY + _SPACE
    lanes_top = rate_top + _RATE + _SPACE
    left = min(_MOST_LEFT, max([_LEAST_LEFT, *(len(node) * CHARACTER_PX + 10 for node in nodes)]))
    x = Linear(stretch.ms(stretch.begin_ns), stretch.ms(stretch.end_ns), left, RIGHT)
    frame = Frame(stretch, x, top, lanes_top + LANE * (1 + len(nodes)))
    attempts = _within(scene.view.attempts, stretch)
    y = _latency_scale(attempts, scene.view.settings.op_timeout_ms, top)
    dots = thin([_dot(attempt, frame, y) for attempt in attempts], ok_limit)
    parts = [
        el("title", name),
        el("desc", summary),
        _shading(scene.windows, frame),
        _time_axis(frame),
        _latency_axis(y, frame),
        _dots(dots),
        _rate(attempts, frame, rate_top, scene.view.settings.rate_per_s),
        leader_lane(scene.reigns, frame, lanes_top),
        *(node_lane(node, scene, frame, lanes_top + LANE * (1 + row), links) for row, node in enumerate(nodes)),
        _outage(frame, stretch.gap_of) if stretch.gap_of else _window_labels(scene.windows, frame, links),
    ]
    svg = el(
        "svg",
        parts,
        class_="chart",
        viewBox=f"0 0 {number(WIDTH)} {number(frame.bottom + _AXIS)}",
        role="img",
        aria_label=f"{name}. {summary}",
        data_x=f"{number(x.start)} {number(x.end)} {x.low:.4f} {x.high:.4f}",
        data_y=f"{number(y.start)} {number(y.end)} {y.low:.5f} {y.high:.5f}",
        data_top=frame.top,
        data_bottom=frame.bottom,
    )
    return Chart(svg, dots, len(attempts))


def _within(attempts: list[Attempt], stretch: Stretch) -> list[Attempt]:
    first = bisect_left(attempts, stretch.begin_ns, key=lambda attempt: attempt.invoke_ns)
    return attempts[first : bisect_right(attempts, stretch.end_ns, key=lambda attempt: attempt.invoke_ns)]


def _latency_scale(attempts: list[Attempt], timeout_ms: float, top: float) -> Log:
    latencies = [max(attempt.latency_ms, 0.05) for attempt in attempts]
    return log_around(latencies, top + _LATENCY, top, least=0.7, most=max(100.0, timeout_ms))


def _dot(attempt: Attempt, frame: Frame, y: Log) -> Dot:
    outcome = attempt.outcome if attempt.outcome in _SHAPES else "info"
    return Dot(frame.at(attempt.invoke_ns), y(attempt.latency_ms), outcome)


def _dots(thinned: Thinned) -> Iterable[Markup]:
    for outcome, (class_, shape) in _SHAPES.items():
        path = "".join(shape.format(number(dot.x), number(dot.y)) for dot in thinned.dots if dot.outcome == outcome)
        if path:
            yield el("path", class_=class_, d=path)


def _shading(windows: list[Window], frame: Frame) -> Iterable[Markup]:
    for window in frame.visible(windows):
        left, right = frame.at(window.begin_ns), frame.at(window.end_ns)
        yield el(
            "rect",
            el("title", window.label),
            class_="w" if window.fault else "h",
            x=left,
            y=frame.top,
            width=max(1.0, right - left),
            height=frame.bottom - frame.top,
        )
        if window.fault and window.begin_ns >= frame.stretch.begin_ns:
            begin = frame.top - (_BRACKET + 4 if frame.stretch.gap_of else 4)
            yield el("path", class_="fl", d=f"M{number(left)} {number(begin)}V{number(frame.bottom)}")


def _window_labels(windows: list[Window], frame: Frame, links: Mapping[int, str]) -> Iterable[Markup]:
    free = frame.left
    for window in frame.visible(windows):
        left = max(frame.left, frame.at(window.begin_ns))
        text = str(window.trial) if window.trial else window.label
        if left < free:
            continue
        free = left + max(_LABEL_PX, len(text) * CHARACTER_PX + 6)
        label = el("text", text, class_="wl", x=left, y=frame.top - 8)
        yield linked(label, links.get(window.trial))


def _outage(frame: Frame, shown: Round) -> Iterable[Markup]:
    """The fault's name and, below it, the time without an acknowledged write as a bracket."""
    row = frame.top - _BRACKET - 8
    yield el("text", shown.label, class_="wl", x=frame.at(shown.fault_ns), y=row)
    if shown.gap is None or shown.gap.length_ms <= 0:
        return
    left, right = frame.at(shown.gap.begin_ns), frame.at(shown.gap.end_ns)
    middle = frame.top - 12
    bracket = f"M{number(left)} {number(middle - 4)}v8m0-4H{number(max(right, left + 1))}m0-4v8"
    yield el("path", class_="gap", d=bracket)
    text = f"{'at least ' if shown.gap.open else ''}{duration(shown.gap.length_ms)} without an acknowledged write"
    if right + 8 + len(text) * CHARACTER_PX < RIGHT:
        yield el("text", text, class_="gl", x=right + 8, y=middle + 4)
    else:
        yield el("text", text, class_="gl", x=RIGHT, y=row, text_anchor="end")


def _time_axis(frame: Frame) -> Iterable[Markup]:
    for tick in frame.x.ticks(9):
        at = number(frame.x(tick))
        yield el("path", class_="g", d=f"M{at} {number(frame.top)}V{number(frame.bottom)}")
        label = tick_label(round(tick, 6))
        yield el("text", label, class_="t", x=at, y=frame.bottom + 16, text_anchor="middle")


def _latency_axis(y: Log, frame: Frame) -> Iterable[Markup]:
    yield el("text", "latency", class_="p", x="0", y=frame.top + 6)
    for tick in y.ticks():
        at = y(tick)
        yield el("path", class_="g", d=f"M{number(frame.left)} {number(at)}H{number(RIGHT)}")
        yield el("text", tick_label(tick), class_="t", x=frame.left - 6, y=at + 4, text_anchor="end")


def _rate(attempts: list[Attempt], frame: Frame, top: float, per_s: float) -> Iterable[Markup]:
    """Acknowledged writes per second, in columns of a few pixels that expect a few writes each."""
    counts, bin_ms = _counts(attempts, frame, per_s)
    bin_px = (RIGHT - frame.left) / len(counts)
    bottom = top + _RATE
    yield el("text", "writes/s", class_="p", x="0", y=top + 10)
    most = max(counts)
    yield el("path", class_="ax", d=f"M{number(frame.left)} {number(bottom)}H{number(RIGHT)}")
    if not most:
        yield el("text", "no write was acknowledged", class_="t", x=frame.left + 4, y=bottom - 6)
        return
    yield el("text", f"{most / bin_ms * 1000:,.0f}", class_="t", x=frame.left - 6, y=top + 24, text_anchor="end")
    steps = [f"M{number(frame.left)} {number(bottom)}"]
    height = bottom
    for index, count in enumerate(counts):
        level = bottom - count / most * _RATE
        if level != height:
            steps.append(f"H{number(frame.left + index * bin_px)}V{number(level)}")
            height = level
    steps.append(f"H{number(RIGHT)}V{number(bottom)}z")
    yield el("path", class_="r", d="".join(steps))


def _counts(attempts: list[Attempt], frame: Frame, per_s: float) -> tuple[list[int], float]:
    """Acknowledged writes in each column, and how long a column is in milliseconds."""
    x = frame.x
    most = int((RIGHT - frame.left) / _BIN_PX)
    wanted = int((x.high - x.low) * per_s / 1000 / _WRITES_PER_BIN) if per_s else most
    bins = max(1, min(most, wanted))
    bin_ms = (x.high - x.low) / bins
    counts = [0] * bins
    for attempt in attempts:
        if attempt.outcome == "ok" and attempt.kind == "write" and attempt.return_ns <= frame.stretch.end_ns:
            counts[min(bins - 1, int((frame.stretch.ms(attempt.return_ns) - x.low) / bin_ms))] += 1
    return counts, bin_ms
