"""The plan of one scenario on one target: everything that was decided before the run.

It is written before the first process starts and read back by the judge, so that a verdict depends on the evidence
directory alone and never on today's defaults.
"""

import msgspec

from plasmacloud.base.errors import ConfigError


class Traits(msgspec.Struct, frozen=True):
    """What the lab must know about a target to judge it fairly.

    ``term_lags``: Status reports the term of the last applied entry, not of the leader it names.
    ``graceful_statuses``: exit statuses (as of waitpid) that a clean stop on SIGTERM may end with.
    ``election_timeout_ms``: the configured timeout of a silent leader; shown beside the results.
    """

    term_lags: bool
    graceful_statuses: tuple[int, ...]
    election_timeout_ms: int


class Plan(msgspec.Struct, frozen=True):
    """Settings of one scenario run. Times in the unit of their name.

    ``reference``: run to compare with; its verdict is shown and does not count for the run's. ``options``: what only
    this suite needs to know.
    """

    target: str
    target_version: str
    traits: Traits
    scenario: str
    trials: int
    nodes: int
    clients: int
    rate_per_s: int
    seed: int
    thresholds: dict[str, float]
    op_timeout_ms: int = 250
    min_traffic: int = 50
    load_s: float = 5.0
    hold_s: float = 30.0
    storm_s: float = 30.0
    recovery_deadline_s: float = 30.0
    shortened: str = ""
    reference: bool = False
    options: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.trials > 0
        assert self.nodes > 0
        assert self.clients > 0
        assert self.rate_per_s > 0

    @property
    def resolution_ms(self) -> float:
        """Time between two attempts to write, by whichever client: no outage is known more exactly."""
        return 1000 / self.rate_per_s

    def threshold(self, name: str) -> float:
        """A threshold of the scenario; a missing one is a mistake in the scenario or in the evidence."""
        try:
            return self.thresholds[name]
        except KeyError:
            raise ConfigError(f"the plan of {self.scenario} has no threshold {name}") from None


class Preset(msgspec.Struct, frozen=True):
    """How thorough a run is. ``trials`` by scenario name; other scenarios use their own defaults. ``scenarios``: what
    is run when the user names none; empty means all. ``suites``: what is run besides, each on a target of its own."""

    name: str
    trials: dict[str, int]
    hold_s: float
    load_s: float
    storm_s: float
    shortened: str
    scenarios: tuple[str, ...] = ()
    suites: tuple[str, ...] = ()


BASIC = (
    "cluster-formation",
    "write-replicate-commit",
    "leader-only-write",
    "leader-kill",
    "leader-term",
    "follower-kill",
    "power-loss",
)
RESILIENT = (
    "quorum-loss",
    "pause",
    "restart-storm",
    "rolling-restart",
    "cluster-join",
    "quorum-recover",
    "membership-churn",
)

FULL = Preset("full", {}, hold_s=30.0, load_s=10.0, storm_s=60.0, shortened="", suites=("val13",))

QUICK = Preset(
    "quick",
    {
        "leader-only-write": 2,
        "leader-kill": 5,
        "leader-term": 5,
        "follower-kill": 3,
        "power-loss": 2,
        "quorum-loss": 2,
        "pause": 3,
        "rolling-restart": 3,
        "cluster-join": 1,
        "quorum-recover": 1,
        "membership-churn": 2,
    },
    hold_s=5.0,
    load_s=2.0,
    storm_s=10.0,
    shortened="quick run: few trials, leadership held for 5 s instead of 30 s, a storm of 10 s instead of 60 s",
    suites=("val13",),
)

DEMO = Preset(
    "demo",
    {"leader-only-write": 3, "leader-kill": 20, "leader-term": 8, "follower-kill": 3, "power-loss": 3, "val13": 3},
    hold_s=6.0,
    load_s=3.0,
    storm_s=5.0,
    shortened="demo run: few trials, leadership held for 6 s instead of 30 s",
    scenarios=BASIC,
    suites=("val13",),
)

RESILIENCE = Preset(
    "resilience",
    {
        "quorum-loss": 4,
        "pause": 10,
        "rolling-restart": 6,
        "cluster-join": 1,
        "quorum-recover": 2,
        "membership-churn": 3,
    },
    hold_s=6.0,
    load_s=3.0,
    storm_s=20.0,
    shortened="resilience run: few trials, a storm of 20 s instead of 60 s",
    scenarios=RESILIENT,
)

PRESETS = {preset.name: preset for preset in (FULL, QUICK, DEMO, RESILIENCE)}
