"""HTML and SVG from Python calls: every text is escaped, because it is not marked as anything else.

`el` returns `Markup`; whatever is a plain string when it becomes a child or an attribute is data, and is escaped. So
text that a server wrote into its log can be shown as it is and never becomes part of the page. Concatenating `Markup`
with a string gives a plain string again: a mistake shows as visible tags, not as a hole.

Characters that a reader cannot see, or that change what a reader sees (controls, direction overrides), are replaced by
visible ones.
"""

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"br", "col", "hr", "meta", "link", "wbr"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9:-]*")
_CONTROLS = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)} | {0x7F: "␡"}
_DECEIVING = (*range(0x80, 0xA0), *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
_VISIBLE = str.maketrans(_CONTROLS | {code: f"⟨U+{code:04X}⟩" for code in _DECEIVING})
_SURROGATE = re.compile("[\ud800-\udfff]")


class Markup(str):
    """Text that is HTML or SVG already. Made by this module only, and by `trusted` for our own constants."""

    __slots__ = ()


Child = Any
"""Markup, or data to be escaped, or None (nothing), or an iterable of these."""


def trusted(text: str) -> Markup:
    """Our own constant text, taken as it is. Never for anything that was observed."""
    return Markup(text)


def visible(text: str) -> str:
    """The text with everything that cannot be seen made visible."""
    return _SURROGATE.sub("\ufffd", text.translate(_VISIBLE))


def escape(text: str) -> Markup:
    """Data as text, safe in an element and in a quoted attribute."""
    return Markup(html.escape(visible(text), quote=True))


def number(value: float) -> str:
    """A coordinate: one decimal is a tenth of a pixel."""
    text = f"{value:.1f}"
    return "0" if text == "-0.0" else text.removesuffix(".0")


def el(tag: str, *children: Child, **attributes: object) -> Markup:
    """One element. A trailing underscore of an attribute's name is dropped, others become hyphens; None and False leave
    the attribute out."""
    assert _NAME.fullmatch(tag), tag
    parts = [f"<{tag}"]
    for raw, value in attributes.items():
        name = raw.rstrip("_").replace("_", "-")
        assert _NAME.fullmatch(name), name
        if value is None or value is False:
            continue
        if value is True:
            parts.append(f" {name}")
        else:
            parts.append(f' {name}="{_attribute(value)}"')
    parts.append(">")
    if tag not in _VOID:
        parts.append(join(children))
        parts.append(f"</{tag}>")
    return Markup("".join(parts))


def _attribute(value: object) -> str:
    # Markup is escaped here as well: an attribute holds text, and a title must not lose its brackets.
    return number(value) if isinstance(value, float) else escape(str(value))


def join(children: Child, between: str = "") -> Markup:
    """All children one after the other."""
    return Markup(escape(between).join(_flatten(children)))


def _flatten(child: Child) -> Iterable[str]:
    if child is None or child is False:
        return
    if isinstance(child, Markup):
        yield child
    elif isinstance(child, str):
        yield escape(child)
    elif isinstance(child, (int, float)):
        yield escape(str(child))
    else:
        for each in child:
            yield from _flatten(each)


def hidden(text: str) -> Markup:
    """Text for those who listen to the page."""
    return el("span", text, class_="vh")
