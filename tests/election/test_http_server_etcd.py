"""The election server on etcd: the same surface where the election is held in a replicated store."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contest import DEADLINE_S
from server_rig import Rig, call, eventually, new_name

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.client import Client, ClientError
from plasmacloud.lab.targets.etcd import find_etcd

ORDER = json.dumps({"operator": "ann", "reason": "drill"}).encode()


async def _answers(endpoint: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    async with Client([endpoint], timeout=2.0) as client:
        while True:
            try:
                await client.put("ready", "yes")
                return
            except ClientError:
                assert time.monotonic() < deadline, "etcd does not answer"
                await asyncio.sleep(0.05)


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[str]:
    program = find_etcd()
    if program is None:
        pytest.skip("no etcd program found")
    client, peer = free_ports(2)
    argv = [str(program), "--data-dir", str(tmp_path / "etcd"), "--log-level", "error", "--unsafe-no-fsync"]
    argv += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
    argv += ["--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}"]
    server = ManagedProcess("etcd", argv, log_path=tmp_path / "etcd.log")
    try:
        server.start()
        asyncio.run(_answers(f"127.0.0.1:{client}"))
        yield f"etcd://127.0.0.1:{client}"
    finally:
        server.stop()


def test_lead_write_fail_over(backend: str, tmp_path: Path) -> None:
    rig, election = Rig(tmp_path), new_name()
    try:
        nodes = [rig.server(name, election=election, backend=backend) for name in ("n1", "n2")]
        for node in nodes:
            node.wait_ready()
        eventually("one leads", lambda: any(node.leads for node in nodes))
        leader, follower = sorted(nodes, key=lambda node: not node.leads)
        eventually("they know of each other", lambda: len(leader.get("/v1/ha/nodes")) == 2)
        written = call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "x"}').json()
        assert written == {"key": "a", "value": "x", "epoch": "0.1", "version": 1}
        assert call("GET", f"{follower.url}/v1/probe/a").json() == written
        done = leader.post("/v1/ha/failover", ORDER).json()
        assert (done["old_leader"], done["new_leader"], done["new_epoch"]) == (leader.node, follower.node, "0.2")
        refused = call("PUT", f"{leader.url}/v1/probe/a", b'{"value": "y"}')
        assert refused.json()["outcome"] == "not-executed"
        looked = call("GET", f"{leader.url}/v1/ha/split-brain")
        assert looked.status == 501
        assert looked.json()["type"] == "urn:plasma:problem:not-supported"
        assert "audit operator=ann action=failover outcome=done" in leader.log
    finally:
        rig.stop_servers()
