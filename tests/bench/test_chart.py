"""The figure for the README: from measured rows alone, and readable by any XML parser."""

from xml.etree import ElementTree

import pytest
from bench.chart import chosen, draw
from bench.harness import Row, Sample

SVG = "{http://www.w3.org/2000/svg}"
VERSIONS = {"etcd": "3.5.1", "chainfire": "0.1 <dev>"}


def sample(rate_per_s: float, cpu_us: float) -> Sample:
    return Sample(operations=1000, rate_per_s=rate_per_s, p50_ms=1, p99_ms=2, cpu_us=cpu_us, generator_us=5)


def row(operation: str, in_flight: int, generator: str = "h2load", *, scale: float = 1.0) -> Row:
    etcd = [sample(3000 * scale, 200), sample(5000 * scale, 240), sample(4000 * scale, 220)]
    return Row(operation, in_flight, generator, {"etcd": etcd, "chainfire": [sample(16_000 * scale, 55)]})


def test_one_row_of_each_operation_is_shown_the_one_with_the_most_in_flight() -> None:
    rows = [row("put", 1), row("put", 256), row("put", 64), row("put", 512, "channel"), row("range", 16)]
    assert [(r.operation, r.in_flight) for r in chosen(rows)] == [("put", 256), ("range", 16)]


def test_bars_have_the_lengths_of_the_medians_and_labels_their_numbers() -> None:
    figure = ElementTree.fromstring(draw([row("put", 64)], VERSIONS, "a note"))
    bars = [rect for rect in figure.iter(f"{SVG}rect") if rect.get("height") == "13"]
    rates, cpu = [float(bar.get("width", "0")) for bar in bars[:2]], [float(bar.get("width", "0")) for bar in bars[2:]]
    assert rates[0] / rates[1] == pytest.approx(4000 / 16_000, rel=0.01)
    assert cpu[1] / cpu[0] == pytest.approx(55 / 220, rel=0.01)
    texts = [text.text for text in figure.iter(f"{SVG}text")]
    assert {"4,000", "16,000", "220", "55", "put", "64 in flight", "a note", "chainfire 0.1 <dev>"} <= set(texts)


def test_the_figure_follows_the_colour_scheme_of_its_reader() -> None:
    style = next(ElementTree.fromstring(draw([row("put", 64)], VERSIONS, "")).iter(f"{SVG}style")).text
    assert style is not None
    assert "prefers-color-scheme: dark" in style


def test_a_system_that_was_not_measured_has_no_bar() -> None:
    alone = Row("put", 64, "h2load", {"chainfire": [sample(16_000, 55)]})
    figure = ElementTree.fromstring(draw([alone], {"chainfire": "0.1"}, ""))
    assert len([rect for rect in figure.iter(f"{SVG}rect") if rect.get("height") == "13"]) == 2
