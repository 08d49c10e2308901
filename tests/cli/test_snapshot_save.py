"""`plasma chainfire snapshot save` from a real etcd; ChainFire's own service is tested with the members."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runner import Etcd, Plasma

from plasmacloud.base.errors import ExitCode


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
