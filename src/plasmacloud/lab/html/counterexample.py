"""The counterexample of a history that no order explains, drawn by the checker itself."""

from pathlib import Path

from plasmacloud.lab.html.markup import Markup, trusted
from plasmacloud.lab.html.words import name_of
from plasmacloud.lab.judge import Judgement
from plasmacloud.lab.judging import Case
from plasmacloud.lab.recorder import load_record
from plasmacloud.verify.checks import Verdict
from plasmacloud.verify.files import UnreadableEvidence
from plasmacloud.verify.linearizability_html import fragment

CHECK = "linearizable"


def counterexample(directory: Path, result: Judgement) -> Markup | None:
    """The picture, where the check failed; the search is made again, which it bounds in steps."""
    if not any(check.name == CHECK and check.verdict is Verdict.FAIL for check in result.checks):
        return None
    try:
        found = Case(load_record(directory)).registers
    except UnreadableEvidence:
        return None
    if not found.violations():
        return None
    # The checker escapes what was observed, and its pictures need nothing but the style of this page.
    return trusted(fragment(found, f"Counterexample: {name_of(result)}"))
