"""ChainFire, started as an operator starts it."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence

from plasmacloud.lab.plan import Traits
from plasmacloud.lab.targets.base import NodeSpec, Target


class ChainFire(Target):
    """ChainFire with its default timers."""

    name = "chainfire"
    describe = "ChainFire, default timers (election timeout 300 ms)"

    def missing(self) -> str | None:
        if importlib.util.find_spec("plasmacloud.cli.serve") is None:
            return "this build has no `plasma chainfire serve`"
        return None

    def version(self) -> str:
        return f"plasmacloud {importlib.metadata.version('plasmacloud')}"

    def traits(self) -> Traits:
        return Traits(term_lags=False, graceful_statuses=(0,), election_timeout_ms=300)

    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        members = ",".join(f"{other.name}={other.peer}" for other in cluster)
        return [
            sys.executable,
            "-m",
            "plasmacloud",
            "chainfire",
            "serve",
            "--name",
            node.name,
            "--data-dir",
            str(node.data_dir),
            "--listen-client",
            str(node.client),
            "--listen-peer",
            str(node.peer),
            "--initial-cluster",
            members,
            "--cluster-token",
            "plasma-lab",
        ]
