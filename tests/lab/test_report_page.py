"""The page as a whole: self-contained, the same for the same evidence, safe with hostile text, right in a browser."""

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from headless_chromium import Chromium, chromium, find_chromium
from lab_handmade import MS, good_record, write_record

from plasmacloud.cli.lab import lab
from plasmacloud.lab.evidence import MANIFEST, REPORT_HTML, RUN, RunInfo, write_manifest
from plasmacloud.lab.recorder import LOGS, Record
from plasmacloud.lab.report import Report, build_report, recheck, report_figure, report_page, write_report
from plasmacloud.lab.report_baseline import keep_baseline, kept_baseline, read_baseline
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.events import Note, Stopped
from plasmacloud.verify.files import UnreadableEvidence
from plasmacloud.verify.history import Op, Outcome

ONE = "chainfire/leader-kill"
OTHER = "etcd/leader-kill"
HOSTILE = "</script></svg></pre><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
RUN_INFO = RunInfo(
    format=1,
    started="2026-01-02T03:04:05.000+00:00",
    monotonic_ns=0,
    command=["plasma", "lab", "run"],
    seed=7,
    plasmacloud="0",
    commit="0123456789",
    python="CPython 3.11",
    kernel="Linux 6",
    machine="x86_64",
    cpu_count=2,
    cpu_model="a processor",
    memory_mib=4096,
    load_average=0.5,
    file_system="ext4",
    scenarios=[],
)


def evidence(root: Path, records: dict[str, Record], **changes: object) -> Report:
    """An evidence directory as a run leaves it."""
    info = msgspec.structs.replace(RUN_INFO, **{"scenarios": list(records), **changes})
    root.mkdir(exist_ok=True)
    (root / RUN).write_bytes(msgspec.json.encode(info))
    for name, record in records.items():
        write_record(root / name, record)
    return seal(root)


def seal(root: Path) -> Report:
    report, unreadable = build_report(root)
    assert unreadable == []
    write_report(root, report)
    write_manifest(root)
    return report


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


class Outline(HTMLParser):
    """Elements that must be balanced, ids, links and addresses of a page."""

    VOID = frozenset({"meta", "br", "hr", "link", "col", "wbr"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: set[str] = set()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.handlers += [name] * (name.startswith("on") or name == "style")
            if name == "id":
                self.ids.append(value or "")
            elif name == "href" and (value or "").startswith("#"):
                self.targets.add((value or "")[1:])
            elif name in ("href", "src", "action", "data", "srcset", "poster"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# -- the file ----------------------------------------------------------------------------------------------------------


def test_every_run_leaves_a_page_that_names_no_other_address(tmp_path: Path) -> None:
    evidence(tmp_path, {ONE: good_record(target="chainfire")})
    page = (tmp_path / REPORT_HTML).read_text()
    outline = Outline(page)
    assert outline.addresses == []
    assert outline.handlers == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.targets <= set(outline.ids)
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page
    assert "unsafe-inline" not in page
    assert f"  {REPORT_HTML}\n" in (tmp_path / MANIFEST).read_text()


def test_the_page_says_what_the_report_says(tmp_path: Path) -> None:
    evidence(tmp_path, {ONE: good_record(target="chainfire"), OTHER: good_record()})
    text = text_of((tmp_path / REPORT_HTML).read_text())
    assert "2 of 2 scenarios passed; 4 faults injected; 120 acknowledged writes, 0 lost." in text
    assert "plasma lab run" in text
    assert "Seed 7" in text
    assert "0123456789" in text
    assert "2 CPUs (a processor), 4,096 MiB" in text
    assert "sha256sum -c MANIFEST.sha256" in text
    assert "120 ms without an acknowledged write" in text
    assert "What did not pass" not in text
    assert "Targets side by side" in text


def test_the_same_evidence_gives_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        report = evidence(tmp_path / name, {ONE: good_record(target="chainfire")})
        pages += [(tmp_path / name / REPORT_HTML).read_text(), report_page(tmp_path / name, report)]
    assert len(set(pages)) == 1


def test_another_process_makes_the_same_page(tmp_path: Path) -> None:
    """Whatever the seed of its hashes, its time zone and its language."""
    evidence(tmp_path / "e", {ONE: good_record(target="chainfire")})
    code = (
        "import sys; from pathlib import Path; from plasmacloud.lab.report import build_report, report_page\n"
        "root = Path(sys.argv[1]); sys.stdout.write(report_page(root, build_report(root)[0]))"
    )
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        made = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "e")],
            env={"PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        assert made == (tmp_path / "e" / REPORT_HTML).read_text()


def test_a_prettified_page_is_found_out(tmp_path: Path) -> None:
    evidence(tmp_path, {ONE: good_record(target="chainfire")})
    assert recheck(tmp_path).intact
    path = tmp_path / REPORT_HTML
    path.write_text(path.read_text().replace("0 lost", "0  lost"))
    write_manifest(tmp_path)
    again = recheck(tmp_path)
    assert again.altered == []
    assert again.contradiction is not None
    assert REPORT_HTML in again.contradiction


def test_evidence_from_before_there_was_a_page_is_still_intact(tmp_path: Path) -> None:
    evidence(tmp_path, {ONE: good_record(target="chainfire")})
    (tmp_path / REPORT_HTML).unlink()
    write_manifest(tmp_path)
    assert recheck(tmp_path).intact


def test_a_lost_write_is_shown_with_the_operation_behind_it(tmp_path: Path) -> None:
    record = good_record(target="chainfire")
    lost = record.readings[0].nodes["n3"].pop()
    report = evidence(tmp_path, {ONE: record})
    assert report.verdict is Verdict.FAIL
    text = text_of((tmp_path / REPORT_HTML).read_text())
    assert "✕ FAIL" in text
    assert "1 of 60 acknowledged writes lost" in text
    assert text.index("What did not pass") < text.index(lost.key) < text.index("the operations behind it")


def test_an_interrupted_run_says_so_and_what_was_not_run(tmp_path: Path) -> None:
    record = good_record(target="chainfire")
    record.events.append(Stopped(at_ns=9000 * MS, cause="user", reason="interrupted by a signal"))
    evidence(tmp_path, {ONE: record}, scenarios=[ONE, "chainfire/power-loss"])
    text = text_of((tmp_path / REPORT_HTML).read_text())
    assert "(INTERRUPTED)" in text
    assert "Not run chainfire/power-loss" in text


def test_a_run_in_which_nothing_was_begun_has_a_page(tmp_path: Path) -> None:
    evidence(tmp_path, {}, scenarios=[ONE])
    assert "No scenario was begun" in (tmp_path / REPORT_HTML).read_text()


def test_hostile_evidence_stays_text(tmp_path: Path) -> None:
    record = good_record(target="chainfire")
    record.events.append(Note(at_ns=1015 * MS, trial=1, text=HOSTILE))
    record.history.append(Op(1, 0, 999, "n2", f"lab/{HOSTILE}", "v", 1015 * MS, 1016 * MS, Outcome.INFO, error=HOSTILE))
    plan = msgspec.structs.replace(record.plan, target_version=HOSTILE)
    evidence(tmp_path, {ONE: msgspec.structs.replace(record, plan=plan)})
    logs = tmp_path / ONE / LOGS
    logs.mkdir()
    (logs / "n1.log").write_bytes(
        f"2026-01-02T03:04:06.015Z {HOSTILE}\n".encode() + b"\x00\xff\xfe\x1b[2J\xe2\x80\xae" + b"A" * 100_000 + b"\n"
    )
    seal(tmp_path)
    page = (tmp_path / REPORT_HTML).read_text()
    outline = Outline(page)
    assert outline.addresses == []
    assert outline.handlers == []
    assert page.count("<script") == 1
    assert "&lt;script&gt;document.title" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", page)
    assert "A" * 300 not in page
    assert recheck(tmp_path).intact


def test_the_page_stays_small_when_the_run_is_long(tmp_path: Path) -> None:
    record = good_record(trials=60, target="chainfire")
    for number in range(36_000):
        trial, client = number // 600 + 1, 2 + number % 3
        at_ns = (trial * 1000 + 200) * MS + number % 600 * MS // 3
        took_ns = (number % 90 + 1) * 9000
        record.history.append(
            Op(trial, client, number, "n2", f"f/{number}", "v", at_ns, at_ns + took_ns, Outcome.FAIL, error="x" * 300)
        )
    evidence(tmp_path, {ONE: record})
    page = (tmp_path / REPORT_HTML).read_text()
    assert len(page.encode()) < 3_000_000
    assert "of 60 cannot be opened, to keep this file small" in page
    assert page.count('class="untold"') == 60 - len(re.findall(r'id="t-chainfire-leader-kill-\d+"', page))


# -- beside an earlier run ---------------------------------------------------------------------------------------------


def slower(by_ms: int) -> Record:
    """Ten trials whose outages are longer by so much."""
    record = good_record(trials=10, target="chainfire")
    moved = [
        msgspec.structs.replace(op, invoke_ns=op.invoke_ns + by_ms * MS, return_ns=op.return_ns + by_ms * MS)
        if op.seq % 100 >= 10
        else op
        for op in record.history
    ]
    return msgspec.structs.replace(record, history=moved)


def test_a_run_is_compared_with_an_earlier_one(tmp_path: Path) -> None:
    evidence(tmp_path / "old", {ONE: good_record(trials=10, target="chainfire"), OTHER: good_record()})
    new = tmp_path / "new"
    new.mkdir()
    keep_baseline(new, read_baseline(tmp_path / "old"))
    report = evidence(new, {ONE: slower(25)}, commit="another")
    text = text_of((new / REPORT_HTML).read_text())
    assert "Against an earlier run" in text
    assert "▲ slower" in text
    assert "120 ms · 120 ms (10) 145 ms · 145 ms (10) +21 %" in text
    assert "Only in the earlier run: etcd/leader-kill." in text
    assert "commit 0123456789 another" in text
    assert "too few values to say" not in text.split("Against an earlier run")[1].split("Chance:")[0]
    (tmp_path / "old").rename(tmp_path / "elsewhere")
    assert recheck(new).intact  # the earlier run is not needed any more
    assert report_page(new, report) == (new / REPORT_HTML).read_text()
    kept = kept_baseline(new)
    assert kept is not None
    assert kept.run.seed == 7


def test_too_few_values_are_said_to_be_too_few(tmp_path: Path) -> None:
    evidence(tmp_path / "old", {ONE: good_record(target="chainfire")})
    report = evidence(tmp_path / "new", {ONE: good_record(target="chainfire")})
    text = text_of(report_page(tmp_path / "new", report, read_baseline(tmp_path / "old")))
    assert "too few values to say" in text
    assert "No verdict changed." in text
    assert "Both runs are of the same commit, on the same machine and system." in text


def test_altered_evidence_is_no_baseline(tmp_path: Path) -> None:
    evidence(tmp_path, {ONE: good_record(target="chainfire")})
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(UnreadableEvidence, match="is no baseline"):
        read_baseline(tmp_path)


def test_the_command_writes_the_page_and_the_figure_elsewhere_only(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    evidence(one, {ONE: good_record(target="chainfire"), OTHER: good_record()})
    report = evidence(two, {ONE: good_record(target="chainfire"), OTHER: good_record()})
    page, figure = tmp_path / "page.html", tmp_path / "figure.svg"
    ran = CliRunner().invoke(
        lab, ["report", str(two), "--baseline", str(one), "--html", str(page), "--svg", str(figure)]
    )
    assert ran.exit_code == 0, ran.output
    assert "no verdict changed" in ran.output
    assert page.read_text() == report_page(two, report, read_baseline(one))
    assert figure.read_text() == report_figure(two, report)
    assert "leader-kill, etcd" in figure.read_text()
    assert "href" not in figure.read_text()
    refused = CliRunner().invoke(lab, ["report", str(two), "--html", str(two / "page.html")])
    assert refused.exit_code != 0
    assert not (two / "page.html").exists()
    assert recheck(two).intact


# -- in a browser ------------------------------------------------------------------------------------------------------

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here (Debian: chromium)")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: a failure, a comparison, hostile text."""
    root = tmp_path_factory.mktemp("shown")
    evidence(root / "old", {ONE: good_record(trials=10, target="chainfire")})
    bad = good_record(target="etcd")
    bad.readings[0].nodes["n3"].pop()
    bad.events.append(Note(at_ns=1015 * MS, trial=1, text=HOSTILE))
    (root / "new").mkdir()
    keep_baseline(root / "new", read_baseline(root / "old"))
    evidence(root / "new", {ONE: slower(25), OTHER: bad})
    logs = root / "new" / ONE / LOGS
    logs.mkdir()
    (logs / "n2.log").write_text(f"2026-01-02T03:04:06.015Z {HOSTILE}\n")
    seal(root / "new")
    return root / "new" / REPORT_HTML


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height, from the header."""
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@needs_chromium
@pytest.mark.slow
def test_the_browser_finds_nothing_to_complain_about_and_asks_for_nothing_else(browser: Chromium, shown: Path) -> None:
    browser.look(width=1200, height=900)
    browser.open(shown)
    assert browser.requests() == [shown.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.title").startswith("FAIL: PlasmaCloud HA validation")
    assert browser.evaluate("document.querySelectorAll('svg.chart').length") == 14
    assert browser.evaluate("document.scripts.length") == 1
    assert browser.evaluate("document.querySelectorAll('img, iframe, link, object, embed').length") == 0


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "dark", "media"), [(1200, False, ""), (1200, True, ""), (360, False, ""), (794, False, "print")]
)
def test_nothing_is_wider_than_the_window(
    browser: Chromium, shown: Path, tmp_path: Path, width: int, dark: bool, media: str
) -> None:
    browser.look(width=width, height=900, dark=dark, media=media)
    browser.open(shown)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = browser.evaluate("getComputedStyle(document.body).color")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < sum(map(int, re.findall(r"\d+", ink)[:3]))) is dark
    assert size_of(browser.screenshot(tmp_path / "window.png")) == (width, 900)


@needs_chromium
@pytest.mark.slow
def test_texts_of_a_chart_do_not_lie_on_one_another(browser: Chromium, shown: Path) -> None:
    browser.look(width=1200, height=900)
    browser.open(shown)
    overlaps = browser.evaluate(
        """(() => {
          for (const part of document.querySelectorAll("details")) part.open = true;
          const found = [];
          for (const svg of document.querySelectorAll("svg.chart, svg.strips")) {
            const boxes = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
            boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
              const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
              const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
              if (x > 1 && y > 2) found.push(a + " / " + b);
            }));
          }
          return found;
        })()"""
    )
    assert overlaps == []


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
def test_a_link_opens_the_trial_and_the_moment_with_and_without_javascript(
    browser: Chromium, shown: Path, scripts: bool
) -> None:
    page = shown.read_text()
    for pattern in (r'id="(t-chainfire-leader-kill-3)"', r'id="(m-chainfire-leader-kill-3-\d+)"'):
        target = re.search(pattern, page)
        assert target is not None
        browser.look(width=1200, height=900, scripts=scripts)
        browser.open(shown, f"#{target[1]}")
        closed = browser.evaluate(f"!!document.getElementById('{target[1]}').closest('details:not([open])')")
        assert closed is False


@needs_chromium
@pytest.mark.slow
def test_pointing_at_a_dot_says_what_it_is(browser: Chromium, shown: Path) -> None:
    browser.look(width=1200, height=900)
    browser.open(shown, "#s-chainfire-leader-kill")
    box = browser.evaluate(
        """(() => {
          const svg = document.querySelector("section svg.chart"), path = svg.querySelector("path.o");
          svg.scrollIntoView();
          const [, x, y] = path.getAttribute("d").match(/M([\\d.]+) ([\\d.]+)/);
          const at = new DOMPoint(+x, +y).matrixTransform(svg.getScreenCTM());
          return [at.x, at.y];
        })()"""
    )
    for _ in range(2):  # the first one only enters
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0] + 1, y=box[1])
    said = browser.evaluate("document.querySelector('section svg.chart .xt').textContent")
    assert re.fullmatch(r"[\d.]+ m?s: acknowledged after 0\.5 ms", said), said


@needs_chromium
@pytest.mark.slow
def test_every_link_and_section_can_be_reached_and_has_a_name(browser: Chromium, shown: Path) -> None:
    browser.look(width=1200, height=900)
    browser.open(shown)
    nameless = browser.evaluate(
        """[...document.querySelectorAll("a[href]:not([tabindex='-1']), summary, [role=region], svg[role=img]")]
          .filter((e) => !(e.textContent.trim() || e.getAttribute("aria-label"))).length"""
    )
    assert nameless == 0
    levels = browser.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => +h.tagName[1])")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@needs_chromium
@pytest.mark.slow
def test_the_page_prints(browser: Chromium, shown: Path, tmp_path: Path) -> None:
    browser.look(width=1200, height=900)
    browser.open(shown)
    assert browser.pdf(tmp_path / "page.pdf").startswith(b"%PDF-")
