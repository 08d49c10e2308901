"""A counterexample says what was seen, what it follows from, and what cannot be, in text and as a picture."""

import re
from html.parser import HTMLParser

import pytest
import verify_objects as objects
from verify_objects import MS, op

from plasmacloud.verify.counterexample import headline, summary, text
from plasmacloud.verify.linearizability import Result, check, smallest_counterexample
from plasmacloud.verify.linearizability_html import fragment, page, style
from plasmacloud.verify.models import Add, Cas, Counter, Read, Register, Write
from plasmacloud.verify.operations import Operation
from plasmacloud.verify.search import Budget, search


def stale() -> Result:
    """Client 2 reads what client 0 wrote, after client 1 had overwritten it; much else happens later."""
    return check(
        [
            op(0, 100, 101, Write("<old>")),
            op(1, 102, 103, Write("new")),
            op(3, 102.5, None, Cas("new", "other")),
            op(2, 104, 105, Read(), "<old>"),
            op(0, 106, 107, Write("later")),
            op(2, 108, 109, Read(), "later"),
        ],
        Register(),
    )


def test_the_smallest_prefix_ends_with_the_read_that_cannot_be() -> None:
    (example,) = stale().violations()
    assert example.minimal
    assert example.until_ns == 105 * MS
    assert [each.client for each in example.prefix] == [0, 1, 3, 2]
    assert example.order == (op(0, 100, 101, Write("<old>")), op(1, 102, 103, Write("new")))
    assert example.stuck == (op(2, 104, 105, Read(), "<old>"),)
    assert example.states == ("<old>", "new")


def test_in_words() -> None:
    assert text(stale().violations()[0]).splitlines() == [
        "k: not linearizable; smallest prefix that no order explains: 4 operations, until 5.000 ms",
        "",
        "  an order that explains everything but the last return:",
        "    [0.000 .. 1.000] client 0: write <old>                           then <old>",
        "    [2.000 .. 3.000] client 1: write new                             then new",
        "",
        "  neither it nor any other order has a place for:",
        "    [4.000 .. 5.000] client 2: read -> <old>",
        "",
        "  open then, of no help wherever they are put:",
        "    [2.500 .. ?] client 3: cas new other -> ?",
    ]


def test_for_a_report() -> None:
    (example,) = stale().violations()
    assert summary(example) == [
        headline(example),
        "  ordered last: [2.000 .. 3.000] client 1: write new, then new",
        "  no place for: [4.000 .. 5.000] client 2: read -> <old>",
    ]


def test_an_operation_that_nothing_precedes_can_be_the_whole_counterexample() -> None:
    (example,) = check([op(0, 0, 1, Read(), 7)], Register()).violations()
    assert (example.order, example.stuck) == ((), (op(0, 0, 1, Read(), 7),))
    assert "client 0: read -> 7" in text(example)
    assert "client 0" in page(check([op(0, 0, 1, Read(), 7)], Register()))


def test_without_the_budget_to_minimise_it_says_so() -> None:
    history = [op(0, 0, 1, Read(), 7), *(op(9, t, t + 1, Write(t)) for t in range(10, 100, 2))]
    whole = search(Register(), history, Budget(1_000))
    example = smallest_counterexample("k", Register(), history, whole, Budget(0))
    assert not example.minimal
    assert "there may be a smaller one" in headline(example)
    assert smallest_counterexample("k", Register(), history, whole, Budget(1_000)).until_ns == 1 * MS


class _Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [f"{name}={value}" for name, value in attrs]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [f"{name}={value}" for name, value in attrs]


@pytest.mark.parametrize("make", [page, fragment])
def test_the_picture_is_well_formed_and_loads_nothing(make: object) -> None:
    document = make(stale())  # type: ignore[operator]
    parser = _Balance()
    parser.feed(document)
    assert parser.open == []
    assert not [each for each in parser.attributes if re.match(r"(src|href|on\w+|style)=", each)]
    assert "<script" not in document
    assert "&lt;old&gt;" in document
    assert "<old>" not in document


def test_the_picture_shows_the_last_operations_of_every_kind() -> None:
    document = fragment(stale())
    assert document.startswith('<section class="lin">')
    assert document.endswith("</section>")
    assert document.count('<rect class="lin-done"') == 2
    assert document.count('<rect class="lin-bad"') == 1
    assert document.count('<rect class="lin-open"') == 1
    assert "prefers-color-scheme: dark" in style()
    assert "@media print" in style()
    assert all(name.startswith("lin") for name in re.findall(r'class="([^" ]+)', document))


def test_a_long_history_is_cut_to_what_matters() -> None:
    history: list[Operation] = objects.simulate(Register(), objects.draw_register, 1, operations=2_000, clients=8)
    end = max(each.return_ns or 0 for each in history) / MS
    result = check([*history, op(99, end + 1, end + 2, Read(), -7)], Register())
    document = page(result)
    assert document.count("<rect") == 48
    assert "earlier ones are left out" in document
    assert len(document) < 40_000


def test_a_good_result_and_an_undecided_one_have_a_section_too() -> None:
    assert "<strong>linearizable</strong>" in fragment(check([op(0, 0, 1, Write(1))], Register()))
    undecided = check([op(0, 0, 1, Add(1)), op(1, 0, 1, Add(2))], Counter(), max_steps=0)
    assert "not decided within more than 0 steps" in fragment(undecided)
