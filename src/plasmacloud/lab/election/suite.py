"""What a suite is: a fixed course of checks with names, evidence files and a verdict rule of its own.

A scenario is one experiment on any target; a suite is a whole validation of one, as somebody else has specified it. It
uses the same recorder, events and history, so that reports and rechecks treat both alike.
"""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.judging import Case
from plasmacloud.lab.plan import Plan, Traits
from plasmacloud.lab.recorder import Recorder
from plasmacloud.postgres import find_usable
from plasmacloud.verify.checks import Check, Verdict
from plasmacloud.verify.statistics import Summary

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement
    from plasmacloud.lab.planning import Request

WRITES_PER_S = 100
OP_TIMEOUT_MS = 500
CLIENTS = 60


class Suite(ABC):
    """One validation of two election servers on PostgreSQL. Its evidence is in a directory of its own name.

    ``thresholds``: defaults by name, in the unit of the name; the plan may override them.
    """

    name: str
    target: str
    must_hold: str
    default_trials: int
    thresholds: ClassVar[Mapping[str, float]]

    def missing(self) -> str | None:
        """Why the suite cannot run here; None when it can."""
        try:
            find_usable()
        except ConfigError as error:
            return f"{error} ({error.hint})"
        return None

    def make_plan(
        self, request: "Request", ports: Sequence[int], nodes: int, options: Mapping[str, str], *, shortened: str = ""
    ) -> Plan:
        """What all plans of this kind have in common. ``options``: those of the suite, beside ports and programs."""
        prefix = f"{self.name}."
        changed = {
            name.removeprefix(prefix): value for name, value in request.thresholds.items() if name.startswith(prefix)
        }
        version = importlib.metadata.version("plasmacloud")
        return Plan(
            target=self.target,
            target_version=f"plasmacloud {version} on {find_usable(request.postgres)}",
            traits=Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=1500),
            scenario=self.name,
            trials=request.trials or request.preset.trials.get(self.name, self.default_trials),
            nodes=nodes,
            clients=CLIENTS,
            rate_per_s=WRITES_PER_S,
            seed=request.seed,
            thresholds={**self.thresholds, **changed},
            op_timeout_ms=OP_TIMEOUT_MS,
            shortened=shortened,
            options={"ports": " ".join(map(str, ports)), "postgres": str(request.postgres or ""), **options},
        )

    @abstractmethod
    def plan(self, request: "Request") -> Plan:
        """The plan. Raises `ConfigError` for what cannot be run, such as ports that are taken."""

    @abstractmethod
    def rig(self, plan: Plan, data: Path, recorder: Recorder) -> ElectionRig:
        """The rig; nothing runs yet. ``data`` is removed after the run."""

    @abstractmethod
    async def drive(self, rig: ElectionRig) -> None:
        """Do it: effects only. Raises `WaitedTooLong` when the target does not reach a state that it must reach."""

    @abstractmethod
    def judge(self, case: Case, directory: Path) -> list[Check]:
        """Checks of the evidence, in the order of the specification. Reads nothing but ``case`` and ``directory``."""

    @abstractmethod
    def verdict(self, checks: Sequence[Check]) -> Verdict:
        """What the checks come to, by the suite's own rule. Pure."""

    @abstractmethod
    def distributions(self, case: Case, directory: Path) -> dict[str, list[float]]:
        """What was measured more than once, by name with unit."""

    @abstractmethod
    def reports(self, judgement: "Judgement") -> dict[str, bytes]:
        """The reports that the specification asks for, by file name. Pure."""


def count_writes(judgement: "Judgement") -> dict[str, int]:
    """What became of the writes."""
    return {
        "acknowledged": judgement.acknowledged,
        "refused": judgement.refused,
        "unknown": judgement.unknown,
        "lost": judgement.lost,
    }


def times_text(summaries: Mapping[str, Summary], width: int) -> list[str]:
    """A line for each distribution of milliseconds, for people."""
    lines = []
    for name, each in summaries.items():
        star = "*" if each.p99_is_maximum else ""
        figures = f"n {each.n}  min {each.minimum:.0f}  p50 {each.p50:.0f}  p99 {each.p99:.0f}{star}"
        lines.append(f"  {name:<{width}}  {figures}  max {each.maximum:.0f}")
    if any(each.p99_is_maximum for each in summaries.values()):
        lines.append("  * below 100 trials the nearest-rank p99 is the maximum")
    return lines


def check_text(check: Check, width: int) -> list[str]:
    """A check and what was found, for people."""
    head = f"{check.name:<{width}}  {check.verdict.value:<12}  {check.measured}  ({check.threshold})"
    return [head, *(f"          {finding}" for finding in check.findings)]
