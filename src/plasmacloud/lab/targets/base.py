"""What the lab must know to run a system: how to start a node, and a few traits. Nothing else.

A target never speaks to its nodes; it says how they are started. Everything after that goes through the public
protocol, the same for every target.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address
from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.plan import Traits


class NodeSpec(msgspec.Struct, frozen=True):
    """One node before it exists: a name, two addresses, a directory of its own."""

    name: str
    client: Address
    peer: Address
    data_dir: Path


class Target(ABC):
    """A system under test."""

    name: str
    describe: str

    @abstractmethod
    def missing(self) -> str | None:
        """Why the target cannot run here; None when it can."""

    @abstractmethod
    def version(self) -> str:
        """What exactly is under test, for the evidence."""

    @abstractmethod
    def traits(self) -> Traits:
        """What a judge must know."""

    def thresholds(self, scenario: str) -> Mapping[str, float]:
        """Thresholds of a scenario that are other for this target because it is made otherwise; most have none."""
        return {}

    joins_by_itself = False
    """A node that is started to join asks the cluster to add it, and becomes a voter, without anybody's help."""
    promotes_by_itself = False
    """A member that was added becomes a voter when it has caught up."""

    def with_learner_deadline(self, deadline_s: float) -> "Target":
        """The target, told to remove a learner that never came after so long; itself if it has no such policy."""
        return self

    def bootstrap_argv(self, node: NodeSpec) -> list[str]:
        """The command line of a node that founds a cluster alone."""
        return self.argv(node, [node])

    def join_argv(self, node: NodeSpec, members: Mapping[str, str], seeds: Sequence[NodeSpec]) -> list[str]:
        """The command line of an empty node that joins. ``members``: peer URLs by name of all members, the new one
        included; ``seeds``: members that run. Raises `ConfigError` for a target whose membership cannot change."""
        raise ConfigError(f"the members of {self.name} cannot change")

    def recovery_command(self, node: NodeSpec) -> list[str] | None:
        """What an operator runs on the stopped survivor before it is started again; None: nothing."""
        return None

    def recovered_argv(self, node: NodeSpec, told: str) -> list[str]:
        """The command line that makes a survivor of the loss of the majority serve alone. ``told``: the output of
        `recovery_command`. Raises `ConfigError` for a target that cannot."""
        raise ConfigError(f"{self.name} cannot be recovered from one survivor")

    def restart_argv(self, recovered: list[str]) -> list[str]:
        """The command line for later restarts of a node that was started with `recovered_argv`."""
        return recovered

    @abstractmethod
    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        """The command line of one node of a cluster. The same for the first start and for every restart.

        The first word is the server's own program, never a wrapper: signals and PIDs must be the server's.
        """
