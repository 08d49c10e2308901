"""Members that break a rule of the simulator, and how they are looked for."""

from typing import Any, NamedTuple

from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.sim.options import FaultKind, Options, draw_options
from plasmacloud.sim.simulation import Simulation


class RuleBreaker(NamedTuple):
    """Found by one of the ``rules``. ``kinds``: the faults that it takes; with none, those that are drawn."""

    member_class: type[RunningMember]
    rules: frozenset[str]
    kinds: tuple[FaultKind, ...]
    seed: int


def breaks(*what: str | FaultKind, seed: int = 1, **parts: Any) -> RuleBreaker:
    """A member with other ``parts``, by rules and kinds of faults. ``seed``: that is tried first."""
    rules = frozenset(name for name in what if isinstance(name, str))
    kinds = tuple(kind for kind in what if isinstance(kind, FaultKind))
    return RuleBreaker(type("MutantMember", (RunningMember,), parts), rules, kinds, seed)


def is_found(breaker: RuleBreaker, max_seeds: int) -> bool:
    """Whether one of the first seeds finds it."""
    seeds = (breaker.seed, *(seed for seed in range(1, 1 + max_seeds) if seed != breaker.seed))
    return any(_finds(breaker, seed) for seed in seeds)


def _finds(breaker: RuleBreaker, seed: int) -> bool:
    options = draw_options(seed)
    if breaker.kinds:
        options = Options(seed=seed, mean_gap_s=dict.fromkeys(breaker.kinds, 5.0))
    outcome = Simulation(options, member_class=breaker.member_class).run()
    if outcome.rule == "no defect":
        mistakes = [name for name in ("AttributeError", "NameError", "TypeError") if name in outcome.text]
        assert not mistakes, f"seed {seed}: the mutant is none any more, it only stumbles: {outcome.text}"
    return outcome.rule in breaker.rules
