"""The one place that writes data to standard output: a table for people, JSON or YAML for programs.

Keys and values are bytes. Where they are UTF-8 they are shown as text. Where not, a table escapes them, and JSON and
YAML carry ``{"base64": "…"}`` in place of the text, so that a program can tell the two apart and lose nothing. IDs are
64-bit numbers, more than a JSON number safely holds, and appear everywhere as hexadecimal text.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

from plasmacloud.cli import errors


def printable(data: bytes) -> str:
    """Bytes for a table: text with control characters escaped, or all of it escaped if it is not UTF-8."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "".join(chr(b) if 0x20 <= b < 0x7F and b != 0x5C else f"\\x{b:02x}" for b in data)
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escaped(c) for c in text)


def _escaped(char: str) -> str:
    if char == "\\" or not (char.isprintable() or char == " "):
        return char.encode("unicode_escape").decode("ascii")
    return char


def plain(data: bytes) -> str | dict[str, str]:
    """Bytes for JSON and YAML: text, or marked base64."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        import base64

        return {"base64": base64.b64encode(data).decode("ascii")}


def hex_id(number: int) -> str:
    """An ID as people and logs write it."""
    return f"{number:x}"


def emit(value: Any, output: str) -> None:
    """Write plain values (dicts, lists, text, numbers) as JSON or YAML."""
    if output == "json":
        import json

        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write aligned columns with a head; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    numeric = [
        bool(cells) and all(row[at] == "-" or row[at].lstrip("-").isdecimal() for row in cells)
        for at in range(len(header))
    ]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for number, row in enumerate([list(header), *cells]):
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        click.echo(click.style(line, bold=True) if number == 0 and errors.color_wanted() else line)


def raw(data: bytes) -> None:
    """Write bytes as they are."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
