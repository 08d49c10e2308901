"""What the lab must know to run a system: how to start a node, and a few traits. Nothing else.

A target never speaks to its nodes; it says how they are started. Everything after that goes through the public
protocol, the same for every target.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address
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

    @abstractmethod
    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        """The command line of one node of a cluster. The same for the first start and for every restart.

        The first word is the server's own program, never a wrapper: signals and PIDs must be the server's.
        """
