"""The report as JUnit XML, which every CI system understands: a suite per scenario, a case per check.

A check that failed is a failure; one that proved nothing, or not everything, is an error: neither may look green.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence

from plasmacloud.lab.judge import Judgement
from plasmacloud.verify.checks import Check, Verdict


def junit_xml(results: Sequence[Judgement], started: str) -> str:
    """The whole document."""
    root = ET.Element("testsuites", name="plasma lab")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for result in results:
        counts = {
            "tests": len(result.checks),
            "failures": sum(check.verdict is Verdict.FAIL for check in result.checks),
            "errors": sum(check.verdict not in (Verdict.PASS, Verdict.FAIL) for check in result.checks),
        }
        name = f"{result.target}.{result.scenario}"
        suite = ET.SubElement(root, "testsuite", name=name, timestamp=started[:19])
        for key, value in counts.items():
            suite.set(key, str(value))
            totals[key] += value
        for check in result.checks:
            _case(suite, name, check)
    for key, value in totals.items():
        root.set(key, str(value))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _case(suite: ET.Element, class_name: str, check: Check) -> None:
    case = ET.SubElement(suite, "testcase", classname=class_name, name=check.name)
    if check.verdict is Verdict.PASS:
        return
    tag = "failure" if check.verdict is Verdict.FAIL else "error"
    message = f"{check.verdict.value}: {check.measured} (threshold: {check.threshold})"
    ET.SubElement(case, tag, message=message, type=check.verdict.value).text = "\n".join(check.findings)
