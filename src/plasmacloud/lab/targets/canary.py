"""The canaries: deliberately broken stores that the lab must fail. A lab that passes one proves nothing."""

import sys
from collections.abc import Sequence

from plasmacloud.lab.plan import Traits
from plasmacloud.lab.targets.base import NodeSpec, Target


class Canary(Target):
    """Acknowledges a write before it is on disk or on another node."""

    name = "canary"
    describe = "deliberately broken store (acknowledges too early): must FAIL"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "canary 1 (broken on purpose)"

    def traits(self) -> Traits:
        return Traits(term_lags=False, graceful_statuses=(0, -15), election_timeout_ms=100)

    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        members = ",".join(f"{other.name}={other.client}" for other in cluster)
        return [
            sys.executable,
            "-m",
            "plasmacloud.lab.canary",
            "--name",
            node.name,
            "--data-dir",
            str(node.data_dir),
            "--listen",
            str(node.client),
            "--cluster",
            members,
        ]


class StaleCanary(Canary):
    """Reads at a follower what the follower has, which is not what has been acknowledged."""

    name = "canary-stale"
    describe = "the canary, and its followers answer from memory: must FAIL without any fault"

    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        return [*super().argv(node, cluster), "--stale-reads"]
