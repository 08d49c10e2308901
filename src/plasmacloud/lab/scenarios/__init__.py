"""The scenarios, in the order in which they are run. A new one is one small file and one line here."""

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.scenarios.cluster_join import ClusterJoin
from plasmacloud.lab.scenarios.follower_kill import FollowerKill
from plasmacloud.lab.scenarios.formation import ClusterFormation
from plasmacloud.lab.scenarios.leader_kill import LeaderKill
from plasmacloud.lab.scenarios.leader_only_write import LeaderOnlyWrite
from plasmacloud.lab.scenarios.leader_term import LeaderTerm
from plasmacloud.lab.scenarios.membership_churn import MembershipChurn
from plasmacloud.lab.scenarios.pause import Pause
from plasmacloud.lab.scenarios.power_loss import PowerLoss
from plasmacloud.lab.scenarios.quorum_loss import QuorumLoss
from plasmacloud.lab.scenarios.quorum_recover import QuorumRecover
from plasmacloud.lab.scenarios.replicate import WriteReplicateCommit
from plasmacloud.lab.scenarios.restart_storm import RestartStorm
from plasmacloud.lab.scenarios.rolling_restart import RollingRestart

_ALL: tuple[Scenario, ...] = (
    ClusterFormation(),
    WriteReplicateCommit(),
    LeaderOnlyWrite(),
    LeaderKill(),
    LeaderTerm(),
    FollowerKill(),
    PowerLoss(),
    QuorumLoss(),
    Pause(),
    RestartStorm(),
    RollingRestart(),
    ClusterJoin(),
    QuorumRecover(),
    MembershipChurn(),
)
SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _ALL}


def find_scenario(name: str) -> Scenario:
    """The scenario with that name. Raises `ConfigError` naming those that exist."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise ConfigError(f"there is no scenario {name!r}", hint=f"scenarios are {', '.join(SCENARIOS)}") from None
