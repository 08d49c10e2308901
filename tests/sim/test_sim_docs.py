"""What the manual says of rules and faults is what the code has."""

import ast
import re
from pathlib import Path

import plasmacloud.sim
from plasmacloud.sim.options import FaultKind

MANUAL = Path(__file__).parents[2] / "docs" / "simulation.md"
CODE = Path(plasmacloud.sim.__path__[0])


def rules() -> set[str]:
    """The names of all rules, as they are given to `Violation` or to the demand that raises it."""
    found = set()
    for path in CODE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            at = {"Violation": 0, "_demand": 1}.get(name)
            if at is not None and isinstance(rule := node.args[at], ast.Constant):
                found.add(str(rule.value))
    return found


def table(heading: str) -> set[str]:
    """What the first columns of a section's table say in code type."""
    section = MANUAL.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall("`(.*?)`", cell)}


def test_every_rule_is_in_the_manual_and_no_other() -> None:
    assert table("The rules") == rules()


def test_every_fault_is_in_the_manual_and_no_other() -> None:
    assert table("The faults") == {kind.value for kind in FaultKind}
