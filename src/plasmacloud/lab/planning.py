"""From what the user asked for to the list of plans: which scenarios, on which targets, how thoroughly."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.election.suite import Suite
from plasmacloud.lab.plan import DEMO, Plan, Preset
from plasmacloud.lab.scenarios import SCENARIOS, find_scenario
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.suites import SUITES
from plasmacloud.lab.targets import TARGETS, find_target
from plasmacloud.lab.targets.base import Target

DEFAULT_TARGET = "chainfire"
COMPARISON_TARGETS = ("etcd", "etcd-tuned")
COMPARISON_SCENARIO = "leader-kill"
COMPARISON_TRIALS = 10
"""What the demo adds: a result means more beside another system's on the same machine, at the same time."""


class Request(msgspec.Struct, frozen=True):
    """A run as asked for. Empty ``scenarios`` or ``targets`` and None mean: the default."""

    scenarios: tuple[str, ...]
    targets: tuple[str, ...]
    preset: Preset
    trials: int | None
    seed: int
    nodes: int
    clients: int | None
    rate_per_s: int
    op_timeout_ms: int
    thresholds: Mapping[str, float]
    """By ``SCENARIO.NAME``."""
    port_base: int | None = None
    """For suites, whose ports are fixed otherwise."""
    postgres: Path | None = None
    """Directory of PostgreSQL's programs."""
    network: str | None = None
    """For suites that cut networks: by which mechanism; None means the best that there is."""
    only: tuple[str, ...] = ()
    """For suites that consist of scenarios: run these and no others."""

    @property
    def clients_needed(self) -> int:
        """So many that each can wait for its time limit and the rate goes on all the same."""
        return max(1, -(-self.op_timeout_ms * self.rate_per_s // 1000))


def make_plans(request: Request) -> tuple[list[Plan], list[str]]:
    """The plans in order, and remarks for the user. Raises `ConfigError` for anything that cannot be run."""
    _check_load(request)
    _check_thresholds(request.thresholds)
    own = {suite.target for suite in SUITES.values()}
    general = tuple(name for name in request.targets if name not in own)
    names = tuple(name for name in request.scenarios if name not in SUITES)
    plans: list[Plan] = []
    if names or (not request.scenarios and (general or not request.targets)):
        plans += _scenario_plans(request, names or request.preset.scenarios or tuple(SCENARIOS), general)
    elif general:
        raise ConfigError(f"{', '.join(request.scenarios)} cannot run on {', '.join(general)}", hint=_suite_targets())
    remarks: list[str] = []
    for suite in _suites(request):
        problem = suite.missing() if not request.scenarios and request.postgres is None else None
        if problem is not None:
            remarks.append(f"{suite.name} is not run: {problem}")
        else:
            plans.append(suite.plan(request))
    if request.preset is DEMO and not request.targets and not request.scenarios:
        _add_comparison(request, plans, remarks)
    if not plans:
        raise ConfigError(f"nothing to run: {'; '.join(remarks) or 'these targets have no such scenarios'}")
    return plans, remarks


def _suites(request: Request) -> list[Suite]:
    """Those that were named; or else those of the preset, or of the targets that were named."""
    if request.scenarios:
        return [SUITES[name] for name in dict.fromkeys(request.scenarios) if name in SUITES]
    if request.targets:
        return [suite for suite in SUITES.values() if suite.target in request.targets]
    return [SUITES[name] for name in request.preset.suites]


def _suite_targets() -> str:
    return "; ".join(f"{suite.name} runs on {suite.target}" for suite in SUITES.values())


def _scenario_plans(request: Request, names: Sequence[str], targets: Sequence[str]) -> list[Plan]:
    scenarios = [find_scenario(name) for name in dict.fromkeys(names)]
    if request.targets and not targets:
        raise ConfigError(f"{', '.join(names)} cannot run on {', '.join(request.targets)}", hint=_suite_targets())
    systems = [find_target(name) for name in dict.fromkeys(targets)] or [TARGETS[DEFAULT_TARGET]]
    for target in systems:
        problem = target.missing()
        if problem:
            raise ConfigError(f"the target {target.name} cannot run here: {problem}")
    return [_plan(request, target, scenario) for target in systems for scenario in scenarios]


def _add_comparison(request: Request, plans: list[Plan], remarks: list[str]) -> None:
    shorter = msgspec.structs.replace(request, trials=request.trials or COMPARISON_TRIALS)
    for other in map(find_target, COMPARISON_TARGETS):
        problem = other.missing()
        if problem:
            remarks.append(f"no comparison with {other.name}: {problem}")
        else:
            plan = _plan(shorter, other, SCENARIOS[COMPARISON_SCENARIO])
            plans.append(msgspec.structs.replace(plan, reference=True))


def _plan(request: Request, target: Target, scenario: Scenario) -> Plan:
    preset = request.preset
    trials = scenario.default_trials
    if trials > 1:
        trials = request.trials or preset.trials.get(scenario.name, trials)
    prefix = f"{scenario.name}."
    changed = {
        name.removeprefix(prefix): value for name, value in request.thresholds.items() if name.startswith(prefix)
    }
    return Plan(
        target=target.name,
        target_version=target.version(),
        traits=target.traits(),
        scenario=scenario.name,
        trials=trials,
        nodes=request.nodes,
        clients=request.clients or request.clients_needed,
        rate_per_s=request.rate_per_s,
        seed=request.seed,
        thresholds={**scenario.thresholds, **target.thresholds(scenario.name), **changed},
        op_timeout_ms=request.op_timeout_ms,
        load_s=preset.load_s,
        hold_s=preset.hold_s,
        storm_s=preset.storm_s,
        shortened=preset.shortened,
    )


def _check_load(request: Request) -> None:
    if request.nodes < 3 or request.nodes % 2 == 0:
        raise ConfigError(f"{request.nodes} nodes", hint="a cluster under test has 3, 5 or 7 nodes")
    if request.clients is not None and request.clients < request.clients_needed:
        raise ConfigError(
            f"{request.clients} clients cannot keep {request.rate_per_s} writes/s going through an outage when each "
            f"waits up to {request.op_timeout_ms} ms",
            hint=f"use --clients {request.clients_needed} or more, a lower --rate, or a shorter --op-timeout",
        )


def _check_thresholds(thresholds: Mapping[str, float]) -> None:
    every: tuple[Scenario | Suite, ...] = (*SCENARIOS.values(), *SUITES.values())
    known = [f"{each.name}.{name}" for each in every for name in each.thresholds]
    for name in thresholds:
        if name not in known:
            raise ConfigError(f"there is no threshold {name!r}", hint=f"thresholds are {', '.join(known)}")
