"""`plasma ha …` against real servers, and against none: tables, JSON, exit codes."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cli_runner import Plasma

sys.path.insert(0, str(Path(__file__).parent.parent / "election"))
from server_rig import ElectionServer, Rig, eventually, running_rig

TOKEN = "0123456789abcdef-secret"
ORDER = ("--operator", "ann", "--reason", "drill")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("ha")) as rig:
        yield rig


@pytest.fixture
def pair(rig: Rig) -> Iterator[tuple[ElectionServer, ElectionServer]]:
    """(leader, follower)"""
    before = len(rig.servers)
    yield rig.pair()
    rig.stop_servers(beyond=before)


def servers(*nodes: ElectionServer) -> list[str]:
    return [word for node in nodes for word in ("--server", node.url)]


def test_status_of_all_nodes(plasma: Plasma, pair: tuple[ElectionServer, ElectionServer]) -> None:
    leader, follower = pair
    result = plasma("ha", "status", *servers(leader, follower))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["NODE", "ROLE", "LEADER", "EPOCH", "SINCE", "QUORUM", "WRITES", "SERVER"]
    assert lines[1].split()[:4] == [leader.node, "leader", leader.node, "1.1"]
    assert lines[2].split()[:4] == [follower.node, "follower", leader.node, "1.1"]
    by_json = json.loads(plasma("ha", "status", *servers(leader), "-o", "json").stdout)
    assert by_json[0]["ok"] is True
    assert by_json[0]["leader_id"] == leader.node
    by_env = yaml.safe_load(
        plasma("-o", "yaml", "ha", "status", PLASMA_HA_SERVER=f"{leader.url},{follower.url}").stdout
    )
    assert [row["node_id"] for row in by_env] == [leader.node, follower.node]
    partly = plasma("ha", "status", *servers(leader), "--server", "127.0.0.1:1")
    assert partly.exit_code == 1
    assert "127.0.0.1:1: connection refused" in partly.stderr


def test_status_from_a_configuration_file(
    plasma: Plasma, pair: tuple[ElectionServer, ElectionServer], tmp_path: Path
) -> None:
    file = tmp_path / "plasma.toml"
    file.write_text(f'[ha]\nserver = ["{pair[0].url}", "{pair[1].url}"]\n')
    result = plasma("--config", str(file), "ha", "status", "-o", "json")
    assert [row["server"] for row in json.loads(result.stdout)] == [pair[0].url, pair[1].url]


def test_quorum_status(plasma: Plasma, pair: tuple[ElectionServer, ElectionServer]) -> None:
    result = plasma("ha", "quorum", "status", "--server", "127.0.0.1:1", *servers(*pair))
    assert result.exit_code == 0
    assert result.stdout.startswith("quorum: healthy, writes: yes, synchronous replicas: 0 of 0 required")
    assert "a write was committed" in result.stdout
    said = json.loads(plasma("ha", "quorum", "status", *servers(*pair), "-o", "json").stdout)
    assert said["quorum_health"] == "healthy"


def test_a_failover_finds_the_leader(plasma: Plasma, pair: tuple[ElectionServer, ElectionServer]) -> None:
    leader, follower = pair
    result = plasma("ha", "failover", "trigger", *servers(follower, leader), *ORDER)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith(f"{leader.node} (epoch 1.1) -> {follower.node} (epoch 1.2) in ")
    eventually("both know", lambda: leader.status()["leader_id"] == follower.node)
    refused = plasma("ha", "failover", "trigger", *servers(leader), *ORDER)
    assert refused.exit_code == 3
    assert f"--server {follower.url}" in refused.stderr
    forced = plasma("ha", "failover", "trigger", *servers(leader, follower), *ORDER, "-o", "json")
    assert json.loads(forced.stdout)["new_epoch"] == "1.3"


def test_split_brain_detect_recover_release(plasma: Plasma, pair: tuple[ElectionServer, ElectionServer]) -> None:
    every = servers(*pair)
    assert plasma("ha", "split-brain", "detect", *every).stdout == "no split brain\n"
    strategy = ("ha", "split-brain", "recover", "--strategy")
    refused = plasma(*strategy, "promote-leader", *every, *ORDER)
    assert refused.exit_code == 3
    assert "no split brain was detected" in refused.stderr
    held = plasma(*strategy, "manual-reconcile", "--force", *every, *ORDER)
    assert held.exit_code == 0
    assert "nobody leads" in held.stderr
    eventually("it is seen", lambda: all(node.status()["held"] for node in pair))
    status = plasma("ha", "status", *every)
    assert status.exit_code == 1
    assert "elections are held off by ann: drill" in status.stderr
    released = plasma("ha", "split-brain", "release", *every, *ORDER)
    assert released.exit_code == 0
    assert "released on" in released.stdout
    assert plasma("ha", "split-brain", "release", *every, *ORDER).exit_code == 3


def test_what_is_found_is_an_exit_code(rig: Rig, plasma: Plasma, pair: tuple[ElectionServer, ElectionServer]) -> None:
    election = pair[0].status()["election"]
    rig.sql("UPDATE leadership_state SET holder_id = 'n9' WHERE election = $1 RETURNING 1", election)
    rig.sql("UPDATE leadership_state SET lock_pid = 1 WHERE election = $1 RETURNING 1", election)
    result = plasma("ha", "split-brain", "detect", *servers(*pair))
    assert result.exit_code == 1
    assert "holder-without-lock: " in result.stdout
    assert json.loads(plasma("ha", "split-brain", "detect", *servers(*pair), "-o", "json").stdout)["detected"] is True


def test_with_a_token(rig: Rig, plasma: Plasma, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    server = rig.server("n1", "--token-file", str(file), election="with-token")
    eventually("it leads", lambda: server.leads)
    without = plasma("ha", "failover", "trigger", *servers(server), *ORDER)
    assert without.exit_code == 3
    assert "--token-file" in without.stderr
    with_token = plasma("ha", "failover", "trigger", *servers(server), *ORDER, "--token-file", str(file))
    assert with_token.exit_code == 3
    assert "no other node of this election is alive" in with_token.stderr
    by_env = plasma("ha", "failover", "trigger", *servers(server), *ORDER, PLASMA_HA_TOKEN_FILE=str(file))
    assert "no other node of this election is alive" in by_env.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("quorum", "status"),
        ("failover", "trigger", *ORDER),
        ("split-brain", "detect"),
        ("split-brain", "release", *ORDER),
    ],
)
def test_nobody_answers(plasma: Plasma, command: tuple[str, ...]) -> None:
    result = plasma("ha", *command, "--server", "127.0.0.1:1")
    assert result.exit_code == 5
    assert "connection refused" in result.stderr


def test_wrong_words(plasma: Plasma, tmp_path: Path) -> None:
    assert plasma("ha", "failover", "trigger", "--operator", "ann").exit_code == 2
    assert plasma("ha", "split-brain", "recover", "--strategy", "hope", *ORDER).exit_code == 2
    assert plasma("ha", "status", "--server", "ftp://x").exit_code == 6
    assert plasma("ha", "status", "--server", "http://u:p@x").exit_code == 6
    assert plasma("ha", "status", "--token-file", str(tmp_path / "none")).exit_code == 6
    assert plasma("election", "serve").exit_code == 2


def test_an_order_without_an_answer_may_have_been_executed(plasma: Plasma) -> None:
    """A server that says that it leads, takes the order, and goes away."""
    status = b'{"node_id": "n1", "role": "leader", "leader_id": "n1", "quorum_health": "healthy"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(status)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30.0)

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(30.0)
                    if b"GET /v1/ha/status" in connection.recv(65_536):
                        connection.sendall(head + status)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        result = plasma("ha", "failover", "trigger", "--server", address, *ORDER)
        thread.join(30.0)
    assert result.exit_code == 4
    assert "may have been executed" in result.stderr
