"""Real ChainFire members as processes, for tests: started, found ready, broken, and always stopped."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.base.tls import ClientTls
from plasmacloud.client import SyncClient

T = TypeVar("T")
DEADLINE_S = 30.0
SERVE = [sys.executable, "-m", "plasmacloud", "chainfire", "serve"]


def wait_until(what: str, condition: Callable[[], T | None], deadline_s: float = DEADLINE_S) -> T:
    """The first true value of ``condition``, which is asked again and again. Fails after the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < until, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)


class Node:
    """One member."""

    def __init__(self, name: str, directory: Path, client_port: int, peer_port: int, extra: Sequence[str]) -> None:
        self.name = name
        self.client = f"127.0.0.1:{client_port}"
        self.peer = f"127.0.0.1:{peer_port}"
        self.data_dir = directory / name
        self.log_path = directory / f"{name}.log"
        self.extra = list(extra)
        self.process: ManagedProcess | None = None

    def argv(self, initial_cluster: str) -> list[str]:
        """The command line of the member."""
        return [
            *SERVE,
            *("--name", self.name, "--data-dir", str(self.data_dir)),
            *("--listen-client", self.client, "--listen-peer", self.peer),
            *("--initial-cluster", initial_cluster, *self.extra),
        ]

    @property
    def log(self) -> str:
        """Everything the member has said in all its lives."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def wait_for_log(self, text: str, *, times: int = 1) -> None:
        """Wait until the log contains ``text`` so many times. Fails at once when the member ends before."""

        def found() -> bool:
            ended = self.process is not None and not self.process.running
            count = self.log.count(text)
            assert count >= times or not ended, f"{self.name} ended, its last words:\n{self.log[-3000:]}"
            return count >= times

        wait_until(f"{text!r} in the log of {self.name}", found)


class Cluster:
    """Members on this machine. `start` returns when all are ready."""

    def __init__(
        self, directory: Path, size: int = 3, extra: Sequence[str] = (), *, tls: ClientTls | None = None
    ) -> None:
        """``tls``: how this test's own clients reach the members."""
        self.tls = tls
        ports = free_ports(2 * size)
        self.nodes = [
            Node(f"n{i + 1}", directory, ports[2 * i], ports[2 * i + 1], [*extra, "--log-level", "debug"])
            for i in range(size)
        ]
        self.initial_cluster = ",".join(f"{node.name}={node.peer}" for node in self.nodes)

    @property
    def endpoints(self) -> list[str]:
        """Client addresses of all members."""
        return [node.client for node in self.nodes]

    def launch(self, node: Node) -> ManagedProcess:
        """Start a member, without waiting."""
        argv = node.argv(self.initial_cluster)
        node.process = ManagedProcess(node.name, argv, log_path=node.log_path, env=dict(os.environ))
        node.process.start()
        return node.process

    def start(self, *nodes: Node) -> None:
        """Start these members, or all, and wait until they serve."""
        starting = {node: node.log.count("ready to serve clients") + 1 for node in nodes or self.nodes}
        for node in starting:
            self.launch(node)
        for node, times in starting.items():
            node.wait_for_log("ready to serve clients", times=times)

    def kill(self, *nodes: Node) -> None:
        """SIGKILL, all of them before any is reaped."""
        for node in nodes:
            assert node.process is not None
            node.process.signal(signal.SIGKILL)
        for node in nodes:
            assert node.process is not None
            assert node.process.wait(DEADLINE_S) == -signal.SIGKILL

    def terminate(self, node: Node) -> int:
        """SIGTERM; returns the exit status."""
        assert node.process is not None
        node.process.signal(signal.SIGTERM)
        return node.process.wait(DEADLINE_S)

    def stop(self) -> None:
        """Stop whatever still runs."""
        for node in self.nodes:
            if node.process is not None:
                node.process.kill()

    def leader(self) -> Node:
        """The member that the others, too, take for their leader."""

        def find() -> Node | None:
            with SyncClient(self.endpoints, timeout=5.0, tls=self.tls) as client:
                states = [client.status(n.client) for n in self.nodes if n.process is not None and n.process.running]
            leaders = {state.leader for state in states}
            by_member = {
                state.header.member_id: node
                for state, node in zip(
                    states, [n for n in self.nodes if n.process is not None and n.process.running], strict=True
                )
            }
            return by_member.get(leaders.pop()) if len(leaders) == 1 else None

        return wait_until("one leader", find)

    def followers(self) -> list[Node]:
        """The others."""
        leader = self.leader()
        return [node for node in self.nodes if node is not leader]

    def dump(self, node: Node) -> dict[bytes, tuple[bytes, int, int]]:
        """What one member holds, asked without a quorum: key → (value, version, mod revision)."""
        with SyncClient([node.client], timeout=30.0, tls=self.tls) as client:
            found = client.get(b"\0", range_end=b"\0", serializable=True)
        return {kv.key: (kv.value, kv.version, kv.mod_revision) for kv in found.kvs}

    def wait_converged(self) -> dict[bytes, tuple[bytes, int, int]]:
        """Wait until all running members hold the same; returns it."""

        def same() -> list[dict[bytes, tuple[bytes, int, int]]] | None:
            dumps = [self.dump(node) for node in self.nodes if node.process is not None and node.process.running]
            return dumps if all(dump == dumps[0] for dump in dumps) else None

        return wait_until("all members hold the same", same)[0]


@contextlib.contextmanager
def running_cluster(directory: Path, size: int = 3, extra: Sequence[str] = ()) -> Iterator[Cluster]:
    """A cluster that serves, and is gone afterwards."""
    cluster = Cluster(directory, size, extra)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
