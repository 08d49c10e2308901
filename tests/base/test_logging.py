"""Log lines as people and machines read them."""

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import configure_logging, get_logger


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_text_line_is_an_event_and_its_facts() -> None:
    out = io.StringIO()
    configure_logging("info", "text", out)
    get_logger("raft").info("became leader", term=3, why="two words")
    time, rest = out.getvalue().rstrip("\n").split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO    raft: became leader term=3 why="two words"'


def test_a_json_line_holds_the_same() -> None:
    out = io.StringIO()
    configure_logging("info", "json", out)
    get_logger("raft").warning("peer lost", peer=7)
    line = json.loads(out.getvalue())
    assert (line["event"], line["level"], line["component"], line["peer"]) == ("peer lost", "warning", "raft", 7)


def test_lines_below_the_level_are_not_written() -> None:
    out = io.StringIO()
    configure_logging("error", "text", out)
    get_logger("raft").info("noise")
    assert out.getvalue() == ""


def test_a_line_break_in_a_fact_cannot_forge_a_line() -> None:
    out = io.StringIO()
    configure_logging("info", "text", out)
    get_logger("rpc").info("refused", reason="x\nERROR forged")
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize(("level", "format"), [("loud", "text"), ("info", "xml")])
def test_unknown_settings_are_refused(level: str, format: str) -> None:
    with pytest.raises(ConfigError):
        configure_logging(level, format)
