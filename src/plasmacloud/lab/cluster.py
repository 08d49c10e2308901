"""The processes of a target: started, signalled and stopped by the PID they were started with, never by name."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from plasmacloud.base.address import Address
from plasmacloud.base.errors import PlasmaError
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.lab.targets.base import NodeSpec, Target

HOST = "127.0.0.1"


class Node:
    """One node of the cluster. ``incarnation`` counts its starts."""

    def __init__(self, spec: NodeSpec, argv: Sequence[str], log_path: Path) -> None:
        self.spec = spec
        self.name = spec.name
        self.incarnation = 0
        self.process = ManagedProcess(spec.name, argv, log_path=log_path)

    @property
    def running(self) -> bool:
        return self.process.running

    def start(self) -> int:
        """Start the server; returns its PID. Must be called on the main thread: children die with their thread."""
        assert self.process.argv, f"nobody has said how to start {self.name}"
        self.process.start()
        self.incarnation += 1
        return self.process.pid


class Cluster:
    """All nodes of a target under test, on loopback addresses with allocated ports.

    ``members`` are the nodes that belong to the cluster at present, as the scenario sees it: steps that mean "every
    node" mean these. ``spares`` more nodes exist, with addresses and directories, for scenarios that let members come
    and go.
    """

    def __init__(self, target: Target, count: int, data_dir: Path, log_dir: Path, *, spares: int = 0) -> None:
        ports = free_ports(2 * (count + spares), HOST)
        names = [f"n{number}" for number in range(1, count + spares + 1)]
        specs = [
            NodeSpec(name, Address(HOST, ports[2 * i]), Address(HOST, ports[2 * i + 1]), data_dir / name)
            for i, name in enumerate(names)
        ]
        founders = specs[:count]
        self.target = target
        self.nodes = {
            spec.name: Node(spec, target.argv(spec, founders) if spec in founders else [], log_dir / f"{spec.name}.log")
            for spec in specs
        }
        self.members = names[:count]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def names(self) -> list[str]:
        """Names of the members."""
        return list(self.members)

    def running(self) -> list[str]:
        """Names of the members whose process runs."""
        return [name for name in self.members if self.nodes[name].running]

    def others(self, *names: str) -> list[str]:
        """Names of all other members."""
        return [name for name in self.members if name not in names]

    def outsiders(self) -> list[str]:
        """Names of the nodes that are no members."""
        return [name for name in self.nodes if name not in self.members]

    def prepare(self, name: str, argv: Sequence[str]) -> None:
        """The command line of the node's next starts."""
        self.nodes[name].process.argv = list(argv)

    def wipe(self, name: str) -> None:
        """Destroy everything that a node has on disk. It must not run."""
        node = self.nodes[name]
        assert not node.running, f"{name} runs"
        if node.spec.data_dir.exists():
            shutil.rmtree(node.spec.data_dir)

    def ended(self) -> list[str]:
        """Members that were started and do not run any more, with where to look."""
        return [
            f"{name} ended with status {node.process.returncode}: see {node.process.log_path}"
            for name, node in ((name, self.nodes[name]) for name in self.members)
            if node.incarnation and not node.running
        ]

    def kill_all(self) -> None:
        """SIGKILL every process that still runs, and reap it."""
        problems: list[str] = []
        for node in self.nodes.values():
            try:
                node.process.kill()
            except PlasmaError as error:
                problems.append(str(error))
        if problems:
            raise PlasmaError("; ".join(problems))
