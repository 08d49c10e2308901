"""Calls about the cluster as a whole: members, hashes, snapshots."""

import hashlib
from pathlib import Path

import pytest
from etcd_process import Etcd, Store
from scripted import closed_endpoint

from plasmacloud.client import RequestRefused, SyncClient, Unavailable
from plasmacloud.rpc.status import StatusCode


def test_hash_kv_follows_the_data(store: Store) -> None:
    (endpoint,) = store.endpoints
    with SyncClient([endpoint], timeout=20.0) as client:
        before = client.hash_kv(endpoint)
        client.put("hash-kv/a", "1")
        after = client.hash_kv(endpoint)
        assert after.hash != before.hash
        assert client.hash_kv(endpoint, revision=before.header.revision).hash == before.hash
        with pytest.raises(RequestRefused, match="future revision") as refused:
            client.hash_kv(endpoint, revision=after.header.revision + 1)
        assert refused.value.code is StatusCode.OUT_OF_RANGE


def test_addresses_that_are_none_are_refused(store: Store) -> None:
    with (
        SyncClient(store.endpoints, timeout=20.0) as client,
        pytest.raises(RequestRefused, match="given member URLs are invalid"),
    ):
        client.member_add(["nonsense"])


def test_a_snapshot_comes_whole_and_in_order(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path)
    try:
        etcd.start()
        (endpoint,) = etcd.endpoints
        with SyncClient([endpoint], timeout=20.0) as client:
            for n in range(50):
                client.put(f"snapshot/{n}", b"x" * 10_000)
            chunks = list(client.snapshot(endpoint))
            data = b"".join(chunk.blob for chunk in chunks)
            left = len(data)
            for chunk in chunks[:-1]:  # the last one is the checksum, which etcd does not count
                left -= len(chunk.blob)
                assert chunk.remaining_bytes == left - len(chunks[-1].blob)
            assert hashlib.sha256(data[:-32]).digest() == data[-32:]
            early = client.snapshot(endpoint)
            next(early)
            early.close()  # type: ignore[attr-defined]  # giving up in the middle is fine
            assert client.put("snapshot/after", "1").header.revision
    finally:
        etcd.stop()


def test_a_snapshot_from_nobody() -> None:
    endpoint = closed_endpoint()
    with SyncClient([endpoint], timeout=2.0) as client, pytest.raises(Unavailable, match="refused"):
        list(client.snapshot(endpoint))
