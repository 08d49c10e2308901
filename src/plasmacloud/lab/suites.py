"""The suites that the lab can run, and their own reports beside the lab's. A new one is a package and a line here."""

from pathlib import Path
from typing import TYPE_CHECKING

from plasmacloud.lab.election.suite import Suite
from plasmacloud.lab.val13.suite import Val13
from plasmacloud.lab.val13x.suite import Val13x

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement

SUITES: dict[str, Suite] = {suite.name: suite for suite in (Val13(), Val13x())}


def write_suite_reports(directory: Path, judgement: "Judgement") -> None:
    """Write what the suite's specification asks for; nothing for a scenario that is no suite."""
    for name, content in _reports(judgement).items():
        (directory / name).write_bytes(content)


def suite_reports_differ(directory: Path, judgement: "Judgement") -> str | None:
    """Which stored report of a suite is not what the evidence says; None when there is none such."""
    for name, content in _reports(judgement).items():
        path = directory / name
        if not path.is_file() or path.read_bytes() != content:
            return f"{directory.name}/{name} does not follow from the evidence"
    return None


def _reports(judgement: "Judgement") -> dict[str, bytes]:
    suite = SUITES.get(judgement.scenario)
    return suite.reports(judgement) if suite is not None else {}
