"""The scenarios, in the order in which they are run. A new one is one small file and one line here."""

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.follower_kill import FollowerKill
from plasmacloud.lab.scenarios.formation import ClusterFormation
from plasmacloud.lab.scenarios.leader_kill import LeaderKill
from plasmacloud.lab.scenarios.leader_only_write import LeaderOnlyWrite
from plasmacloud.lab.scenarios.leader_term import LeaderTerm
from plasmacloud.lab.scenarios.power_loss import PowerLoss
from plasmacloud.lab.scenarios.replicate import WriteReplicateCommit

_ALL: tuple[Scenario, ...] = (
    ClusterFormation(),
    WriteReplicateCommit(),
    LeaderOnlyWrite(),
    LeaderKill(),
    LeaderTerm(),
    FollowerKill(),
    PowerLoss(),
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}


def find_scenario(name: str) -> Scenario:
    """The scenario with that name. Raises `ConfigError` naming those that exist."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise ConfigError(f"there is no scenario {name!r}", hint=f"scenarios are {', '.join(SCENARIOS)}") from None
