"""The page: banner, numbers, what went wrong, everything at one look, then each scenario, then how to check it all.

The page is a function of the evidence directory and of this code: the same evidence gives the same bytes, so judging
an old run again includes its page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plasmacloud.lab.evidence import MANIFEST, RunInfo
from plasmacloud.lab.html.comparison import baseline as baseline_section
from plasmacloud.lab.html.comparison import side_by_side
from plasmacloud.lab.html.counterexample import counterexample
from plasmacloud.lab.html.findings import wrong
from plasmacloud.lab.html.frame import Scene
from plasmacloud.lab.html.limits import limit_ms
from plasmacloud.lab.html.markup import Child, Markup, el, join, trusted
from plasmacloud.lab.html.matrix import matrix
from plasmacloud.lab.html.scenario import Told, detailed_numbers, in_order_of_interest, scene_of, section, tell_trial
from plasmacloud.lab.html.source import load_view
from plasmacloud.lab.html.strips import Strip, draw_strips, standalone
from plasmacloud.lab.html.style import PAGE_STYLE, SCRIPT, policy
from plasmacloud.lab.html.tiles import OUTAGE, tiles
from plasmacloud.lab.html.words import anchor, name_of, scroll, sign
from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.report_comparison import Comparison
from plasmacloud.lab.report_metrics import metric_words
from plasmacloud.verify.checks import Verdict

TRIAL_BYTES = 1_900_000
MOST_TRIALS = 24
"""Of one scenario told in full."""


class Facts(msgspec.Struct, frozen=True):
    """What the page is about, apart from the files."""

    run: RunInfo
    verdict: Verdict
    interrupted: bool
    not_run: Sequence[str]
    results: Sequence[Judgement]
    comparison: Comparison | None = None
    earlier: str = ""


def render_page(root: Path, facts: Facts) -> str:
    """The whole file."""
    scenes = load_scenes(root, facts.run, facts.results)
    trials = tell_trials(facts.results, scenes)
    pictures = {name_of(r): counterexample(directory_of(root, r), r) for r in facts.results}
    counterexamples = {name: picture for name, picture in pictures.items() if picture is not None}
    body = [
        el("a", "Skip to the scenarios", href="#scenarios", class_="skip"),
        _banner(facts),
        el("main", _main(facts, scenes, trials, counterexamples)),
        _footer(facts.run),
        el("script", SCRIPT),
    ]
    title = f"{facts.verdict.value}: PlasmaCloud HA validation, {facts.run.started[:16].replace('T', ' ')}"
    head = el(
        "head",
        el("meta", charset="utf-8"),
        trusted(f'<meta http-equiv="Content-Security-Policy" content="{policy()}">'),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("style", PAGE_STYLE),
    )
    return "<!DOCTYPE html>\n" + el("html", head, el("body", body), lang="en") + "\n"


def load_scenes(root: Path, run: RunInfo, results: Sequence[Judgement]) -> dict[str, Scene]:
    """What can be drawn of every result. A suite has a directory of its own name, a scenario one below its target."""
    return {name_of(r): scene_of(load_view(directory_of(root, r), name_of(r), run)) for r in results}


def directory_of(root: Path, result: Judgement) -> Path:
    """Where the evidence of a result is."""
    own = root / name_of(result)
    return own if own.is_dir() else root / result.scenario


def render_figure(root: Path, run: RunInfo, results: Sequence[Judgement]) -> str:
    """All outages as a figure of its own."""
    targets: dict[str, set[str]] = {}
    for result in results:
        targets.setdefault(result.scenario, set()).add(result.target)
    shared = [result for result in results if len(targets[result.scenario]) > 1]
    strips = [
        msgspec.structs.replace(strip, link=None)
        for strip in strips_of(shared or results, load_scenes(root, run, results))
    ]
    where = f"{run.cpu_count} CPUs ({run.cpu_model}), {run.started[:10]}, plasmacloud {run.plasmacloud}"
    subtitle = f"One dot per fault; line: median, bracket: limit, right: median · longest (faults). {where}"
    return standalone(strips, title="Longest time without an acknowledged write around each fault", subtitle=subtitle)


def tell_trials(results: Sequence[Judgement], scenes: Mapping[str, Scene]) -> dict[str, list[Told]]:
    """As many trials in full as fit, the most telling of every scenario first."""
    waiting = {name_of(r): in_order_of_interest(scenes[name_of(r)], r)[:MOST_TRIALS] for r in results}
    told: dict[str, list[Told]] = {name: [] for name in waiting}
    room = TRIAL_BYTES
    for turn in range(MOST_TRIALS):
        for name, shown in waiting.items():
            if turn < len(shown):
                trial = tell_trial(scenes[name], shown[turn])
                room -= len(trial.html.encode())
                if room < 0:
                    return told
                told[name].append(trial)
    return told


def _banner(facts: Facts) -> Markup:
    run, verdict = facts.run, facts.verdict
    subjects = [result for result in facts.results if not result.reference]
    passed = sum(result.verdict is Verdict.PASS for result in subjects)
    lead = (
        f"{passed} of {len(subjects)} scenarios passed; {sum(r.trials for r in subjects):,} faults injected; "
        f"{sum(r.acknowledged for r in subjects):,} acknowledged writes, {sum(r.lost for r in subjects):,} lost."
    )
    rows: list[tuple[str, Child]] = [
        ("Started", run.started.replace("T", " ").replace("+00:00", " UTC")),
        ("Command", el("code", " ".join(run.command))),
        ("Seed", el("code", run.seed)),
        ("Commit", join([el("code", run.commit), f" (plasmacloud {run.plasmacloud})"])),
        (
            "Machine",
            f"{run.cpu_count} CPUs ({run.cpu_model}), {run.memory_mib:,} MiB, load {run.load_average:g} at the start",
        ),
        ("System", f"{run.kernel} {run.machine}, {run.python}, data on {run.file_system}"),
    ]
    if facts.not_run:
        rows.append(("Not run", ", ".join(facts.not_run)))
    word = [
        el("span", f"{sign(verdict)} ", aria_hidden="true"),
        verdict.value,
        " (INTERRUPTED)" if facts.interrupted else "",
    ]
    return el(
        "header",
        el(
            "div",
            el("p", "PlasmaCloud HA validation", class_="kicker"),
            el("h1", word),
            el("p", lead, class_="lead"),
            class_=f"top {verdict.value}",
        ),
        el("dl", [(el("dt", name), el("dd", value)) for name, value in rows], class_="facts"),
    )


def _main(
    facts: Facts,
    scenes: Mapping[str, Scene],
    trials: Mapping[str, Sequence[Told]],
    counterexamples: Mapping[str, Markup],
) -> list[Child]:
    if not facts.results:
        return [el("p", "No scenario was begun: there is nothing to show.", class_="empty")]
    detailed = detailed_numbers(trials)
    parts: list[Child] = [el("h2", "In short", class_="vh"), tiles(facts.results, scenes), _remarks(facts)]
    problems = wrong([r for r in facts.results if not r.reference], scenes, detailed, counterexamples)
    if problems is not None:
        parts += [el("h2", "What did not pass"), problems]
    parts += [el("h2", "Outages"), _outages(facts.results, scenes)]
    parts += [el("h2", "Checks at one look"), matrix(facts.results)]
    beside = side_by_side(facts.results)
    if beside is not None:
        parts += [el("h2", "Targets side by side"), beside]
    others = wrong([r for r in facts.results if r.reference], scenes, detailed, counterexamples)
    if others is not None:
        parts += [el("h2", "What did not pass in the systems compared with"), others]
    if facts.comparison is not None:
        parts += [el("h2", "Against an earlier run", id="baseline"), baseline_section(facts.comparison, facts.earlier)]
    sections = [section(r, scenes.get(name_of(r)), trials.get(name_of(r), ())) for r in facts.results]
    return [*parts, el("div", sections, id="scenarios")]


def _remarks(facts: Facts) -> Markup | None:
    shortened = dict.fromkeys(result.shortened for result in facts.results if result.shortened)
    notes = [f"{text[0].upper()}{text[1:]}." for text in shortened]
    failed = [name_of(r) for r in facts.results if r.reference and r.verdict is not Verdict.PASS]
    if failed:
        notes.append(f"For comparison only, and no part of the verdict: {', '.join(failed)}, which did not pass.")
    return el("p", " ".join(notes), class_="note") if notes else None


def strips_of(results: Sequence[Judgement], scenes: Mapping[str, Scene], metric: str = OUTAGE) -> list[Strip]:
    """One strip for every scenario that measured ``metric``."""
    several = len({result.target for result in results}) > 1
    return [
        Strip(
            name=f"{result.scenario}, {result.target}" if several else result.scenario,
            values=result.distributions[metric],
            limit_ms=limit_ms(scenes.get(name_of(result)), metric),
            reference=result.reference,
            link=anchor("s", name_of(result)),
        )
        for result in results
        if result.distributions.get(metric)
    ]


def _outages(results: Sequence[Judgement], scenes: Mapping[str, Scene]) -> Markup:
    strips = strips_of(results, scenes)
    if not strips:
        return el("p", "No scenario of this run measured how long writing was interrupted.", class_="empty")
    caption = (
        "Longest time without an acknowledged write around each fault, one dot per fault, on a logarithmic axis. The "
        "upright line is the median, the red bracket the limit; at the right: median · longest (number of faults)."
    )
    drawing = draw_strips(strips, title=f"{metric_words(OUTAGE)} by scenario")
    return el("figure", scroll(drawing, "Outages by scenario"), el("figcaption", caption))


def _footer(run: RunInfo) -> Markup:
    return el(
        "footer",
        el("h2", "Check it yourself"),
        el(
            "p",
            "In the directory that holds this file: ",
            el("code", f"sha256sum -c {MANIFEST}"),
            " verifies every file, this one included. ",
            el("code", "plasma lab report ."),
            " judges the recorded evidence again and says whether the same report, and this same page, follow from it. "
            "The manifest finds damage and careless change; against a forger, compare the manifest's own SHA-256 with "
            "the one that the run printed.",
        ),
        el(
            "p",
            "The verdict is the worst of all checks of all scenarios that are not for comparison only. Nothing is PASS "
            "for want of evidence.",
        ),
        el(
            "p",
            f"Times are of the machine named above; the lab ran there too. Written by plasmacloud {run.plasmacloud}.",
        ),
    )
