"""The lanes below the measurements: who led, and what became of every process."""

from collections.abc import Iterable, Mapping

from plasmacloud.lab.html.frame import CHARACTER_PX, LANE, RIGHT, Frame, Scene
from plasmacloud.lab.html.markup import Markup, el, number
from plasmacloud.lab.html.scales import duration
from plasmacloud.lab.html.source import Moment
from plasmacloud.lab.html.timeline import Reign, describe

_LEAST_ROOM = 5
_MARKED = {
    "fault-injected": "M-4-5h8l-4 7z",
    "process-ended": "M-3.5-3.5l7 7m0-7l-7 7",
    "unexpected-exit": "M-3.5-3.5l7 7m0-7l-7 7",
    "removed-ended": "M-3.5-3.5l7 7m0-7l-7 7",
    "node-restarted": "M-3-4.5l7 4.5l-7 4.5z",
    "node-started": "M-3-4.5l7 4.5l-7 4.5z",
    "node-thawed": "M-3-4.5l7 4.5l-7 4.5z",
}


def leader_lane(reigns: list[Reign], frame: Frame, top: float) -> Iterable[Markup]:
    """Whom the nodes named, and in which term."""
    yield el("text", "leader", class_="p", x="0", y=top + 13)
    shown = frame.visible(reigns)
    if not shown:
        yield el("text", "no node named one", class_="t", x=frame.left + 4, y=top + 13)
    for index, reign in enumerate(shown):
        left, right = frame.at(reign.begin_ns), frame.at(reign.end_ns)
        full = f"{reign.leader}, term {reign.term}"
        yield el(
            "rect",
            el("title", f"{full}: {duration((reign.end_ns - reign.begin_ns) / 1e6)}"),
            class_="l" if index % 2 else "l k",
            x=left,
            y=top + 2,
            width=max(0.8, right - left - 1),
            height=LANE - 4,
        )
        text = _fitting(full, reign.leader, int((right - left - 8) / CHARACTER_PX))
        if text:
            yield el("text", text, class_="lt", x=left + 5, y=top + 13.5)


def _fitting(full: str, name: str, room: int) -> str:
    """As much as there is room for; of a long name the end, which tells nodes apart."""
    for text in (full, name):
        if len(text) <= room:
            return text
    return f"…{name[1 - room :]}" if room >= _LEAST_ROOM else ""


def node_lane(node: str, scene: Scene, frame: Frame, top: float, links: Mapping[int, str]) -> Iterable[Markup]:
    """When a process ran or was frozen, with marks for what happened to it."""
    middle = top + LANE / 2
    room = int((frame.left - 4) / CHARACTER_PX)
    name = node if len(node) <= room else f"{node[: room - 1]}…"
    yield el("text", el("title", node), name, class_="p", x="0", y=middle + 4)
    yield el("path", class_="d", d=f"M{number(frame.left)} {number(middle)}H{number(RIGHT)}")
    for span in frame.visible(scene.lives[node]):
        left, right = frame.at(span.begin_ns), frame.at(span.end_ns)
        yield el(
            "rect",
            el("title", f"{node} {span.state}"),
            class_="z" if span.state == "frozen" else "n",
            x=left,
            y=middle - 3,
            width=max(0.8, right - left),
            height="6",
        )
    stretch = frame.stretch
    for moment in scene.view.moments:
        if node in moment.nodes and moment.kind in _MARKED and stretch.begin_ns <= moment.at_ns <= stretch.end_ns:
            yield _mark(moment, frame.at(moment.at_ns), middle, links)


def _mark(moment: Moment, left: float, middle: float, links: Mapping[int, str]) -> Markup:
    shape = el(
        "path",
        el("title", describe(moment)),
        class_="mf" if moment.kind == "fault-injected" else "m",
        d=_MARKED[moment.kind],
        transform=f"translate({number(left)} {number(middle)})",
    )
    return linked(shape, links.get(moment.at_ns) or links.get(moment.trial))


def linked(content: Markup, target: str | None) -> Markup:
    """A mark that leads to where it is told."""
    # The list of what happened has the same links for those who cannot point: here they would only be in the way.
    return el("a", content, href=f"#{target}", tabindex="-1") if target else content
