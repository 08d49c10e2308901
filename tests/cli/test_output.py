"""How bytes appear in tables and in JSON."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.cli.output import plain, printable


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain text", "plain text"),
        ("grüße 🌍".encode(), "grüße 🌍"),
        (b"two\nlines\t", r"two\nlines\t"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        (b"back\\slash", r"back\\slash"),
        (b"\xff\x00a\\", r"\xff\x00a\x5c"),
        ("a\u202eb".encode(), r"a\u202eb"),
        (b"", ""),
    ],
)
def test_tables_show_text_and_escape_the_rest(data: bytes, shown: str) -> None:
    assert printable(data) == shown


@given(st.binary())
def test_a_table_cell_never_holds_a_control_character(data: bytes) -> None:
    assert printable(data).isprintable()


@given(st.binary(), st.binary())
def test_different_bytes_look_different(a: bytes, b: bytes) -> None:
    if a != b and _is_utf8(a) == _is_utf8(b):
        assert printable(a) != printable(b)


@given(st.binary())
def test_json_loses_nothing(data: bytes) -> None:
    shown = plain(data)
    if isinstance(shown, str):
        assert shown.encode() == data
    else:
        assert base64.b64decode(shown["base64"]) == data
        assert not _is_utf8(data)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
