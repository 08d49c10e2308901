"""A member that may open few files: clients that take all connections take nothing from the member itself."""

import socket
from pathlib import Path

from chainfire_cluster import Cluster, Node, wait_until

from plasmacloud.client import SyncClient

DESCRIPTORS = 120


class Poor(Node):
    def argv(self, initial_cluster: str) -> list[str]:
        return ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", *super().argv(initial_cluster)]


def test_silent_connections_leave_the_member_its_files(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    node = cluster.nodes[0]
    node.__class__ = Poor
    silent: list[socket.socket] = []
    try:
        cluster.start()
        node.wait_for_log("leaves room for fewer connections of clients")
        assert node.process is not None
        files = Path(f"/proc/{node.process.pid}/fd")
        with SyncClient([node.client]) as client:
            client.put(b"before", b"1")
            host, port = node.client.split(":")
            silent.extend(socket.create_connection((host, int(port)), timeout=10) for _ in range(2 * DESCRIPTORS))
            node.wait_for_log("connections are refused: too many")
            assert len(list(files.iterdir())) < DESCRIPTORS - 20
            client.put(b"beside", b"2")  # on the connection that it has
        for connection in silent:
            connection.close()

        def writes() -> bool:
            with SyncClient([node.client]) as client:
                client.put(b"after", b"3")
                return client.get(b"beside").kvs[0].value == b"2"

        wait_until("new clients are let in", writes)
    finally:
        for connection in silent:
            connection.close()
        cluster.stop()
