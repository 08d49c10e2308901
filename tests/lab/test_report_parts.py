"""The parts of the page, one by one: escaping, scales, thinning, times in logs, what happened when, comparison."""

import math
import random
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lab_handmade import MS, good_record, write_record

from plasmacloud.lab.evidence import describe_run
from plasmacloud.lab.html.logs import LogLine, WallClock, around, time_in, timed_lines
from plasmacloud.lab.html.markup import Markup, el, escape, join, number
from plasmacloud.lab.html.scales import Linear, Log, duration, linear_ticks, log_around, tick_label
from plasmacloud.lab.html.source import Attempt, Moment, Sample, Settings, View, load_view
from plasmacloud.lab.html.strips import Strip, draw_strips, drawn_values, standalone
from plasmacloud.lab.html.thinning import Dot, thin
from plasmacloud.lab.html.tiles import interruptions_ms
from plasmacloud.lab.html.timeline import describe, lives, reigns, rounds, windows
from plasmacloud.lab.report_comparison import Change, compare_samples, rank_sum_chance

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x00\x1b[31m\u202egnp.exe\ud800"


# -- markup ------------------------------------------------------------------------------------------------------------


def test_data_never_becomes_markup() -> None:
    shown = el("p", HOSTILE, title=HOSTILE)
    root = ET.fromstring(shown)
    assert list(root) == []
    for text in (root.text or "", root.get("title") or ""):
        assert text.startswith("</pre><script>alert(1)</script><img src=x onerror=alert(2)>\"'&")
        assert "\x00" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "⟨U+202E⟩" in text
    shown.encode()  # nothing that cannot be written to a file


@given(st.text())
def test_any_text_gives_a_well_formed_element(text: str) -> None:
    root = ET.fromstring(el("p", text, title=text))
    assert list(root) == []
    assert set(root.attrib) == {"title"}


def test_markup_put_together_with_plain_text_is_escaped_again() -> None:
    assert el("p", el("b", "x") + "y") == "<p>&lt;b&gt;x&lt;/b&gt;y</p>"


def test_attributes_are_named_as_in_html_and_left_out_when_there_is_nothing_to_say() -> None:
    assert el("a", class_="x", aria_label="y", data_z=1.25, title=None, hidden=True) == (
        '<a class="x" aria-label="y" data-z="1.2" hidden></a>'
    )


def test_children_are_flattened_and_joined() -> None:
    assert join(["a", None, [el("br"), 3], False], "<") == "a&lt;<br>&lt;3"
    assert isinstance(escape("x"), Markup)


def test_coordinates_have_one_decimal_and_no_negative_zero() -> None:
    assert [number(value) for value in (1.0, 1.26, -0.04)] == ["1", "1.3", "0"]


# -- scales ------------------------------------------------------------------------------------------------------------


def test_linear_scale_maps_and_clamps() -> None:
    scale = Linear(0, 10, 100, 200)
    assert [scale(value) for value in (0, 5, 10, -3, 99)] == [100, 150, 200, 100, 200]
    assert Linear(3, 3, 100, 200)(3) == 100


def test_log_scale_maps_decades_evenly_and_takes_zero() -> None:
    scale = Log(1, 100, 0, 200)
    assert scale(10) == pytest.approx(100)
    assert scale(0) == 0
    assert scale(1e9) == 200
    assert scale.ticks() == [1, 10, 100]


def test_a_short_log_axis_gets_ticks_between_the_decades() -> None:
    assert Log(8, 30, 0, 1).ticks() == [10, 20]
    assert log_around([5.0], 0, 1, least=4, most=9).ticks() == pytest.approx([5, 10])


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e9), st.integers(1, 12))
def test_linear_ticks_are_few_round_and_inside(low: float, span: float, about: int) -> None:
    high = low + span
    if high <= low:
        return
    ticks = linear_ticks(low, high, about)
    slack = 1e-6 * (high - low)
    assert len(ticks) <= about + 2
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0.0 ms"),
        (0.844, "0.84 ms"),
        (41.26, "41.3 ms"),
        (620.4, "620 ms"),
        (999.4, "999 ms"),
        (999.6, "1.00 s"),
        (1364, "1.36 s"),
        (30_000, "30.0 s"),
        (120_000, "120 s"),
        (900_000, "15 min"),
    ],
)
def test_durations_read_well(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_tick_labels_are_exact() -> None:
    assert [tick_label(ms) for ms in (0, 0.1, 250, 2500, -50)] == ["0", "0.1 ms", "250 ms", "2.5 s", "−50 ms"]


# -- thinning ----------------------------------------------------------------------------------------------------------


def cloud(count: int, seed: int = 1) -> list[Dot]:
    rng = random.Random(seed)
    return [Dot(rng.uniform(0, 900), rng.uniform(0, 150), "ok") for _ in range(count)]


def test_few_dots_are_all_drawn() -> None:
    dots = cloud(50)
    thinned = thin(dots, 100)
    assert thinned.ok_drawn == thinned.ok_total == len({(round(d.x * 2), round(d.y * 2)) for d in dots})


def test_dots_on_one_another_are_drawn_once() -> None:
    assert thin([Dot(1.0, 1.0, "ok"), Dot(1.1, 1.1, "ok"), Dot(1.0, 1.0, "fail")], 10).dots == [
        Dot(1.0, 1.0, "ok"),
        Dot(1.0, 1.0, "fail"),
    ]


def test_everything_that_failed_or_is_unknown_survives_and_so_do_the_extremes() -> None:
    others = [Dot(float(x), 75.0, "fail" if x % 2 else "info") for x in range(0, 900, 3)]
    slowest, fastest = Dot(450.0, -50.0, "ok"), Dot(450.0, 500.0, "ok")
    thinned = thin([*cloud(20_000), *others, slowest, fastest], 1000)
    assert thinned.ok_drawn <= 1000
    assert set(others) | {slowest, fastest} <= set(thinned.dots)
    assert thinned.others_drawn == thinned.others_total == len(others)


def test_even_failures_are_bounded_and_it_is_said() -> None:
    many = [Dot(dot.x, dot.y, "fail") for dot in cloud(30_000)]
    thinned = thin(many, 1000, others_limit=2000)
    assert thinned.others_drawn <= 2000 < thinned.others_total


def test_thinning_does_not_depend_on_the_order() -> None:
    dots = cloud(5000)
    shuffled = list(dots)
    random.Random(2).shuffle(shuffled)
    assert thin(dots, 300) == thin(shuffled, 300)


# -- logs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z INFO started", 1.5),
        ('{"level":"info","ts":"1970-01-01T00:00:02.250Z","msg":"x"}', 2.25),
        ("1970-01-01 00:00:03.125 UTC [42] LOG:  ready", 3.125),
        ("1970-01-01 01:00:04,5+01:00 x", 4.5),
        ("1969-12-31T19:00:05-0500 x", 5.0),
    ],
)
def test_times_of_several_loggers_are_understood(line: str, seconds: float) -> None:
    assert time_in(line) == int(seconds * 1e9)


@pytest.mark.parametrize("line", ["no time", "2026-13-45T99:99:99Z", "x" * 200 + " 1970-01-01T00:00:01Z"])
def test_a_line_without_a_time_has_none(line: str) -> None:
    assert time_in(line) is None


def test_a_line_without_a_time_belongs_to_the_one_before_it() -> None:
    lines = timed_lines(
        ["before any time", "1970-01-01T00:00:01Z a", "  traceback", "", "y" * 999], WallClock(0, 5 * 10**9)
    )
    assert [line.at_ns for line in lines] == [6 * 10**9] * 3
    assert [line.text for line in lines[:2]] == ["1970-01-01T00:00:01Z a", "  traceback"]
    assert len(lines[2].text) == 280


def test_the_nearest_lines_of_all_logs_are_shown_in_order() -> None:
    logs = {"n2": [LogLine(at * MS, f"b{at}") for at in range(100)], "n1": [LogLine(50 * MS, "a")]}
    lines, more = around(logs, 50 * MS, 10 * MS, 10 * MS, 4)
    assert [(log, line.text) for log, line in lines] == [("n2", "b49"), ("n1", "a"), ("n2", "b50"), ("n2", "b51")]
    assert more == 18


# -- what happened when ------------------------------------------------------------------------------------------------


def view(moments: list[Moment], attempts: list[Attempt] | None = None, samples: list[Sample] | None = None) -> View:
    return View("target/scenario", Settings(), moments, attempts or [], samples or [], {})


def moment(at_ms: int, kind: str, trial: int = 1, **facts: object) -> Moment:
    return Moment(at_ms * MS, kind, trial, facts)


def test_a_fault_is_shaded_until_its_window_closes() -> None:
    found = windows(
        view([moment(10, "fault-injected", fault="kill", nodes=["n1"]), moment(30, "service-resumed"),
              moment(40, "window-closed"), moment(90, "caught-up")])
    )  # fmt: skip
    assert [(w.begin_ns, w.end_ns, w.label) for w in found] == [(10 * MS, 40 * MS, "kill n1")]


def test_a_fault_that_nothing_followed_is_shaded_to_the_end() -> None:
    found = windows(view([moment(10, "fault-injected", fault="kill"), moment(99, "stopped")]))
    assert found[0].end_ns == 99 * MS


def test_the_life_of_a_process_has_frozen_parts_and_ends() -> None:
    spans = lives(
        view([moment(0, "node-started", node="n1"), moment(50, "node-thawed", node="n1", frozen_ms=20.0),
              moment(80, "process-ended", node="n1"), moment(90, "node-restarted", node="n1"),
              moment(100, "note", text="x")])
    )  # fmt: skip
    assert [(s.begin_ns // MS, s.end_ns // MS, s.state) for s in spans["n1"]] == [
        (0, 80, "running"),
        (30, 50, "frozen"),
        (90, 100, "running"),
    ]


def test_the_leader_is_whom_the_highest_term_names() -> None:
    found = reigns(
        [
            Sample(0, "n1", 1, 1, 5),
            Sample(10 * MS, "n2", 2, 2, 6),
            Sample(20 * MS, "n1", 1, 1, 5),  # a leader of yesterday
            Sample(30 * MS, "n2", 2, 0, 7),
            Sample(40 * MS, "n2", 2, 1, 7),
            Sample(50 * MS, "n2", 2, 1, 7),
        ]
    )
    assert [(r.begin_ns // MS, r.end_ns // MS, r.leader, r.term) for r in found] == [
        (0, 10, "n1", 5),
        (10, 30, "n2", 6),
        (40, 50, "n1", 7),
    ]


def test_a_trial_shows_its_outage_and_some_time_around_it() -> None:
    attempts = [Attempt(at * MS, at * MS + MS, "ok") for at in (1, 9, 60, 70)]
    (found,) = rounds(
        view([moment(10, "fault-injected", fault="kill", nodes=["n1"]), moment(65, "caught-up")], attempts)
    )
    assert found.gap is not None
    assert found.gap.length_ms == 51
    assert found.begin_ns < 10 * MS < 65 * MS < found.end_ns


def test_an_event_of_an_unknown_kind_is_told_by_its_facts() -> None:
    assert describe(moment(1, "moon-rose", phase="full")) == "moon-rose phase=full"
    assert describe(moment(1, "process-ended", node="n1")) == "process-ended node=n1"


def test_interruptions_count_only_while_somebody_tried() -> None:
    attempts = [Attempt(at * MS, (at + 1) * MS, "ok") for at in (0, 10, 20)]
    attempts += [Attempt(at * MS, (at + 5) * MS, "fail") for at in range(30, 130, 10)]
    attempts += [Attempt(at * MS, (at + 1) * MS, "ok") for at in (130, 1130, 1140)]  # nobody tried for a second
    down, load = interruptions_ms(attempts, 20.0)
    assert down == pytest.approx(110)
    assert load == pytest.approx(1141 - 999)


def test_files_are_shown_by_their_shape_and_what_is_broken_is_left_out(tmp_path: Path) -> None:
    write_record(tmp_path / "etcd/leader-kill", good_record())
    directory = tmp_path / "etcd/leader-kill"
    (directory / "more.jsonl").write_text('{"invoke_ns":5,"return_ns":6,"outcome":"ok"}\n{"other":1}\nnot json\n')
    (directory / "val-s0.log").write_text("1970-01-01T00:00:01Z hello\n")
    info = describe_run(["plasma"], 1, tmp_path, ["etcd/leader-kill"], "0")
    shown = load_view(directory, "etcd/leader-kill", info)
    kinds = [attempt.kind for attempt in shown.attempts]
    assert (kinds.count("write"), kinds.count("more")) == (60, 1)
    assert list(shown.logs) == ["val-s0"]
    nothing = load_view(tmp_path / "no/such", "no/such", info)
    assert (nothing.attempts, nothing.moments, nothing.span_ns) == ([], [], (0, 0))


# -- distributions -----------------------------------------------------------------------------------------------------


def test_a_strip_shows_every_value_and_marks_those_over_the_limit() -> None:
    root = ET.fromstring(draw_strips([Strip("kill", [10.0, 20.0, 900.0], 500.0)], title="Outage"))
    paths = {path.get("class"): path.get("d") or "" for path in root.iter("path")}
    assert paths["sd"].count("M") == 2
    assert paths["f"].count("M") == 1
    assert root.get("aria-label") == "Outage. kill: median 20.0 ms, longest 900 ms, 3 values, limit 500 ms."


def test_a_strip_without_values_is_drawn_empty() -> None:
    assert "not measured" in draw_strips([Strip("kill", [])], title="Outage")


def test_very_many_values_are_drawn_as_quantiles_with_both_ends() -> None:
    values = [float(value) for value in range(10_000)]
    shown = drawn_values(values)
    assert len(shown) == 121
    assert (shown[0], shown[-1]) == (0.0, 9999.0)


def test_the_figure_for_other_documents_is_whole_and_names_no_other_address() -> None:
    text = standalone([Strip("a < b", [1.0, 2.0])], title="Outage", subtitle="20 faults & more")
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert text.count("http") == 1
    assert "prefers-color-scheme" in text


# -- comparison --------------------------------------------------------------------------------------------------------


def test_the_rank_sum_test_agrees_with_a_published_table() -> None:
    # The two-sided critical value of U for n = m = 10 at the 1 % level is 16: 15 is significant, and only just.
    one = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 13.5, 20.5]
    two = [9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0]
    below = sum(a > b for a in one for b in two)
    assert below == 15
    assert 0.005 < rank_sum_chance(one, two) < 0.01


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_the_chance_is_a_probability_and_the_same_both_ways(one: list[float], two: list[float]) -> None:
    chance = rank_sum_chance(one, two)
    assert 0 <= chance <= 1
    assert math.isclose(chance, rank_sum_chance(two, one))


def test_equal_samples_show_no_difference() -> None:
    values = [float(value) for value in range(20)]
    assert compare_samples("s", "rto_ms", values, values).change is Change.ALIKE
    assert compare_samples("s", "rto_ms", [3.0] * 20, [3.0] * 20).chance == 1.0


def test_a_clear_difference_is_called_by_its_name() -> None:
    slow, fast = [200.0 + value for value in range(20)], [100.0 + value for value in range(20)]
    assert compare_samples("s", "rto_ms", fast, slow).change is Change.SLOWER
    assert compare_samples("s", "rto_ms", slow, fast).change is Change.FASTER


def test_a_significant_difference_too_small_to_matter_is_not_named() -> None:
    one, two = [100 + value / 1000 for value in range(300)], [101 + value / 1000 for value in range(300)]
    found = compare_samples("s", "write_ms", one, two)
    assert found.chance is not None
    assert found.chance < 1e-6
    assert found.change is Change.ALIKE


def test_few_values_say_nothing() -> None:
    assert compare_samples("s", "rto_ms", [1.0] * 7, [100.0] * 20).change is Change.TOO_FEW
    assert compare_samples("s", "rto_ms", [], [100.0]).change is Change.NEW
    assert compare_samples("s", "rto_ms", [1.0], []).change is Change.GONE
