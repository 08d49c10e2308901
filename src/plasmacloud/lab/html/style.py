"""The page's style and script, kept in files of their own, and the policy that lets nothing else in."""

import base64
import hashlib
from importlib.resources import files

from plasmacloud.lab.html.markup import Markup, trusted
from plasmacloud.verify.linearizability_html import style as counterexample_style


def _text(name: str) -> str:
    return (files("plasmacloud.lab.html") / name).read_text(encoding="utf-8")


COLOURS = _text("colours.css")
SVG_STYLE = COLOURS + _text("figures.css")
"""What a figure needs to stand alone."""

PAGE_STYLE: Markup = trusted(SVG_STYLE + _text("report.css") + counterexample_style())
SCRIPT: Markup = trusted(_text("report.js"))


def policy() -> str:
    """Nothing may be loaded from anywhere; of what is in the page, only this style and this script count.

    Content Security Policy Level 3, hashes: https://www.w3.org/TR/CSP3/#framework-directive-source-list
    """
    return "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(PAGE_STYLE)}",
            f"script-src {_hash(SCRIPT)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
