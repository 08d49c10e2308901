"""The answer in a few numbers, each beside the limit that it was held against."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import msgspec

from plasmacloud.lab.html.frame import Scene
from plasmacloud.lab.html.limits import limit_ms
from plasmacloud.lab.html.markup import Child, Markup, el
from plasmacloud.lab.html.scales import duration
from plasmacloud.lab.html.source import Attempt
from plasmacloud.lab.html.timeline import acknowledged_ns
from plasmacloud.lab.html.words import name_of, sign
from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Check, Verdict, combine
from plasmacloud.verify.statistics import max_coverage, summarize

OUTAGE = "rto_ms"
LEAST_PAUSE_MS = 20.0
"""A shorter time without an acknowledged write is put down to the cadence of the clients."""


class Tile(msgspec.Struct, frozen=True):
    """One number, or several with their names. ``verdict`` None: nothing to hold it against."""

    title: str
    big: str | Sequence[tuple[str, str]]
    sub: str
    against: str
    verdict: Verdict | None = None


def tiles(results: Sequence[Judgement], scenes: Mapping[str, Scene]) -> Markup:
    """All tiles, of what counts for the verdict."""
    subjects = [result for result in results if not result.reference]
    found = [
        _outage(subjects, scenes),
        _loss(subjects),
        _availability(subjects, scenes),
        _checks(subjects),
        _leadership(subjects, scenes),
    ]
    return el("ul", [_render(tile) for tile in found], class_="tiles")


def _render(tile: Tile) -> Markup:
    mark: Child = None
    if tile.verdict is not None:
        mark = [el("span", f"{sign(tile.verdict)} {tile.verdict.value}", class_=f"badge {tile.verdict.value}"), " "]
    several = not isinstance(tile.big, str)
    if isinstance(tile.big, str):
        big = el("div", tile.big, class_="big")
    else:
        pairs = [el("div", el("dt", name), el("dd", value, class_="big")) for name, value in tile.big]
        big = el("dl", pairs, class_="three")
    class_ = tile.verdict.value if tile.verdict else "none"
    return el(
        "li",
        el("h3", tile.title),
        big,
        el("div", tile.sub, class_="sub"),
        el("div", mark, tile.against, class_="against"),
        class_=f"{class_} wide" if several else class_,
    )


def _outage(subjects: Sequence[Judgement], scenes: Mapping[str, Scene]) -> Tile:
    title = "Outage (RTO): longest time without an acknowledged write"
    measured = [result for result in subjects if result.distributions.get(OUTAGE)]
    values = [value for result in measured for value in result.distributions[OUTAGE]]
    if not values:
        return Tile(title, [("median", "–"), ("p99", "–"), ("longest", "–")], "", "not measured in this run")
    summary = summarize(values)
    star = " *" if summary.p99_is_maximum else ""
    big = [
        ("median", duration(summary.p50)),
        (f"p99{star}", duration(summary.p99)),
        ("longest", duration(summary.maximum)),
    ]
    worst = max(measured, key=lambda result: max(result.distributions[OUTAGE]))
    sub = f"over {_faults(summary.n)}" + (
        f" in {len(measured)} scenarios, longest in {worst.scenario}" * (len(measured) > 1)
    )
    if star:
        bounded = f"{max_coverage(summary.n):.0%}".replace("%", " %")
        sub += f"; * fewer than 100: the maximum, which bounds {bounded} of such faults (95 % confidence)"
    return Tile(title, big, sub, _closest(measured, scenes), _of_checks(subjects, _is_outage))


def _faults(count: int) -> str:
    return f"{count:,} fault{'s' if count != 1 else ''}"


def _closest(measured: Sequence[Judgement], scenes: Mapping[str, Scene]) -> str:
    """How near the nearest came to its limit."""
    shares = []
    for result in measured:
        limit = limit_ms(scenes.get(name_of(result)), OUTAGE)
        if limit:
            longest = max(result.distributions[OUTAGE])
            shares.append((longest / limit, f"{result.scenario}, {duration(longest)} of {duration(limit)}"))
    if not shares:
        return "no limit set"
    share, words = max(shares)
    return f"{'over' if share > 1 else 'nearest to'} its limit: {words}"


def _loss(subjects: Sequence[Judgement]) -> Tile:
    acknowledged = sum(result.acknowledged for result in subjects)
    lost = sum(result.lost for result in subjects)
    read_back = sum(result.read_back for result in subjects)
    if not acknowledged:
        return Tile("Data loss (RPO)", "–", "no write was acknowledged", "not measured in this run")
    sub = f"of {acknowledged:,} acknowledged writes; {read_back:,} read back on every node"
    verdict = _of_checks(subjects, "rpo".__eq__) or (Verdict.FAIL if lost else None)
    return Tile("Data loss (RPO)", f"{lost:,} lost", sub, "limit: none lost", verdict)


def _availability(subjects: Sequence[Judgement], scenes: Mapping[str, Scene]) -> Tile:
    title = "Availability for writes"
    tried = sum(result.acknowledged + result.refused + result.unknown for result in subjects)
    ok = sum(result.acknowledged for result in subjects)
    down = load = 0.0
    faults = 0
    for result in subjects:
        scene = scenes.get(name_of(result))
        if scene is not None:
            least_ms = max(LEAST_PAUSE_MS, result.resolution_ms or 0.0)
            one, two = interruptions_ms(scene.view.attempts, least_ms)
            down, load = down + one, load + two
            faults += sum(window.fault for window in scene.windows)
    if not load:
        return Tile(title, "–", "no write was tried", "not measured in this run")
    share = 1 - down / load
    big = "100 %" if down == 0 else f"{min(share, 0.9999):.2%}".replace("%", " %")
    often = f", a fault every {duration(load / faults)}" if faults else ", no faults"
    sub = f"of {duration(load)} under load{often}; {ok:,} of {tried:,} writes tried were acknowledged"
    return Tile(title, big, sub, "no limit set")


def interruptions_ms(attempts: Sequence[Attempt], least_ms: float) -> tuple[float, float]:
    """How long, from the first write to the last, none was acknowledged although some were tried; and the whole time.

    Pauses of less than ``least_ms`` do not count. ``attempts`` are in the order in which they were sent."""
    writes = [attempt for attempt in attempts if attempt.kind == "write"]
    if not writes:
        return 0.0, 0.0
    begin_ns = writes[0].invoke_ns
    end_ns = max(attempt.return_ns for attempt in writes)
    sent = iter(attempt.invoke_ns for attempt in writes)
    next_sent = next(sent, None)
    down = idle = 0
    for left, right in pairwise([begin_ns, *acknowledged_ns(writes), end_ns]):
        while next_sent is not None and next_sent <= left:
            next_sent = next(sent, None)
        if (right - left) / 1e6 < least_ms:
            continue
        # While nothing was sent the clients rested, and nobody was refused anything.
        rest = (right if next_sent is None or next_sent >= right else next_sent) - left
        if rest / 1e6 < least_ms:
            rest = 0
        idle += rest
        waited = right - left - rest
        down += waited if waited / 1e6 >= least_ms else 0
    return down / 1e6, (end_ns - begin_ns - idle) / 1e6


def _checks(subjects: Sequence[Judgement]) -> Tile:
    checks = [check for result in subjects for check in result.checks]
    passed = sum(check.verdict is Verdict.PASS for check in checks)
    worst: dict[str, int] = {}
    for check in checks:
        if check.verdict is not Verdict.PASS:
            worst[check.verdict.value] = worst.get(check.verdict.value, 0) + 1
    other = ", ".join(f"{count} {word}" for word, count in sorted(worst.items()))
    kinds = len({check.name for check in checks})
    sub = f"{kinds} kinds of check in {len(subjects)} scenario{'s' if len(subjects) != 1 else ''}"
    big = f"{passed} of {len(checks)}"
    verdict = combine(check.verdict for check in checks)
    return Tile("Checks passed", big, f"{sub}; {other}" if other else sub, "limit: all", verdict)


def _leadership(subjects: Sequence[Judgement], scenes: Mapping[str, Scene]) -> Tile:
    reigns = [
        {(reign.leader, reign.term) for reign in scenes[name_of(r)].reigns} for r in subjects if name_of(r) in scenes
    ]
    count = sum(map(len, reigns))
    verdict = _of_checks(subjects, _is_leadership)
    if not count:
        return Tile("Elections", "–", "no node named a leader", "not measured in this run", verdict)
    faults = sum(window.fault for result in subjects for window in scenes[name_of(result)].windows)
    sub = f"leaders named by the nodes themselves; {_faults(faults)} injected"
    return Tile("Elections", f"{count:,}", sub, "limit: one leader in each term", verdict)


def _is_outage(name: str) -> bool:
    return name == "rto" or name.endswith("-rto")


def _is_leadership(name: str) -> bool:
    return name.startswith("one-leader-per-")


def _of_checks(subjects: Sequence[Judgement], wanted: Callable[[str], bool]) -> Verdict | None:
    found: list[Check] = [check for result in subjects for check in result.checks if wanted(check.name)]
    return combine(check.verdict for check in found) if found else None
