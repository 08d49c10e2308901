"""VAL13's verdict and Gate C. Pure: from the verdicts of the ten checks, in so many words.

PASS: all ten. FAIL: any of 03, 04 and 09 fails. PARTIAL: 03, 04, 06, 07 and 09 pass. That leaves the cases in which 06
or 07 does not pass, or something could not be judged. They are not PASS and not PARTIAL either: FAIL when a violation
was seen, INCONCLUSIVE when not.
"""

from collections.abc import Mapping

import msgspec

from plasmacloud.lab.val13.names import CHECKS
from plasmacloud.verify.checks import Verdict

DECISIVE = ("VAL13-03", "VAL13-04", "VAL13-09")
REQUIRED = ("VAL13-03", "VAL13-04", "VAL13-06", "VAL13-07", "VAL13-09")
GATE_C = ("VAL13-03", "VAL13-09", "VAL13-04")


class Ruling(msgspec.Struct, frozen=True):
    """A verdict, and which checks it rests on when it is not PASS."""

    verdict: Verdict
    reason: str


def rule(found: Mapping[str, Verdict]) -> Ruling:
    """The verdict of the ten checks; one that is not there has not been judged."""
    judged = {identifier: found.get(identifier, Verdict.INCONCLUSIVE) for identifier in CHECKS}
    open_ = [identifier for identifier, verdict in judged.items() if verdict is not Verdict.PASS]
    failed = [identifier for identifier, verdict in judged.items() if verdict is Verdict.FAIL]
    if not open_:
        return Ruling(Verdict.PASS, "all ten checks pass")
    not_passed = f"not PASS: {', '.join(f'{each} ({judged[each].value})' for each in open_)}"
    decisive = [identifier for identifier in failed if identifier in DECISIVE]
    if decisive:
        return Ruling(Verdict.FAIL, f"{', '.join(decisive)} failed; {not_passed}")
    if all(judged[identifier] is Verdict.PASS for identifier in REQUIRED):
        return Ruling(Verdict.PARTIAL, f"{', '.join(REQUIRED)} pass; {not_passed}")
    return Ruling(Verdict.FAIL if failed else Verdict.INCONCLUSIVE, not_passed)


def gate_c(found: Mapping[str, Verdict]) -> bool:
    """Gate C: both failovers within 5000 ms, and no data lost."""
    return all(found.get(identifier) is Verdict.PASS for identifier in GATE_C)
