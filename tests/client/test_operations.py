"""Every operation against real servers: etcd and ChainFire."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from etcd_process import Store

from plasmacloud.base.errors import ExitCode
from plasmacloud.client import (
    Client,
    Compacted,
    Health,
    Order,
    RangeResult,
    RequestRefused,
    SortBy,
    SyncClient,
    Txn,
    delete,
    exists,
    get,
    missing,
    mod_revision,
    put,
    value,
)
from plasmacloud.client.types import DeleteResult, PutResult, TxnResult
from plasmacloud.rpc.status import StatusCode


def on(store: Store, work: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Client(store.endpoints) as client:
            await work(client)

    asyncio.run(main())


def test_put_get_delete(store: Store) -> None:
    async def work(client: Client) -> None:
        first = await client.put("pgd/a", "1")
        second = await client.put("pgd/a", b"\xff\x00", prev_kv=True)
        assert second.prev_kv is not None
        assert second.prev_kv.value == b"1"
        assert second.header.revision == first.header.revision + 1

        found = (await client.get("pgd/a")).first
        assert found is not None
        assert (found.value, found.version, found.create_revision) == (b"\xff\x00", 2, first.header.revision)
        old = (await client.get("pgd/a", revision=first.header.revision)).first
        assert old is not None
        assert old.value == b"1"

        gone = await client.delete("pgd/a", prev_kv=True)
        assert gone.deleted == 1
        assert gone.prev_kvs[0].value == b"\xff\x00"
        assert (await client.get("pgd/a")).first is None
        assert (await client.delete("pgd/a")).deleted == 0

    on(store, work)


def test_ranges(store: Store) -> None:
    async def work(client: Client) -> None:
        for name in "abcd":
            await client.put(f"rng/{name}", name)

        def names(result: RangeResult) -> str:
            return "".join(kv.key.decode()[-1] for kv in result)

        assert names(await client.get("rng/", prefix=True)) == "abcd"
        assert names(await client.get("rng/b", range_end="rng/d")) == "bc"
        limited = await client.get("rng/", prefix=True, limit=2)
        assert (names(limited), limited.more, limited.count) == ("ab", True, 4)
        assert names(await client.get("rng/", prefix=True, sort_by=SortBy.MOD, order=Order.DESCEND)) == "dcba"
        assert (await client.get("rng/", prefix=True, count_only=True)).count == 4
        assert all(kv.value == b"" for kv in await client.get("rng/", prefix=True, keys_only=True))
        assert names(await client.get("rng/c", from_key=True, serializable=True)).startswith("cd")
        assert (await client.delete("rng/", prefix=True)).deleted == 4

    on(store, work)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 14, 15])
def test_scan_returns_every_key_once_whatever_the_page(store: Store, count: int) -> None:
    async def work(client: Client) -> None:
        prefix = f"scan{count}/"
        written = {f"{prefix}{number:03}".encode() for number in range(count)}
        for key in written:
            await client.put(key, b"v")
        got = [kv.key async for kv in client.scan(prefix, prefix=True, page=7)]
        assert got == sorted(written)

    on(store, work)


def test_scan_sees_one_revision_although_others_write(store: Store) -> None:
    async def work(client: Client) -> None:
        for number in range(6):
            await client.put(f"iso/{number}", "before")
        seen = []
        async for kv in client.scan("iso/", prefix=True, page=2):
            if not seen:
                await client.delete("iso/", prefix=True)
                await client.put("iso/9", "after")
            seen.append((kv.key, kv.value))
        assert seen == [(f"iso/{number}".encode(), b"before") for number in range(6)]

    on(store, work)


def test_scan_of_everything_includes_the_edges_of_the_key_space(store: Store) -> None:
    async def work(client: Client) -> None:
        for key in (b"\0", b"\xff\xff"):
            await client.put(key, "edge")
        everything = [kv.key async for kv in client.scan(page=5)]
        assert everything[0] == b"\0"
        assert everything[-1] == b"\xff\xff"
        assert len(everything) == (await client.get("", prefix=True, count_only=True)).count
        await client.delete(b"\0")
        await client.delete(b"\xff\xff")

    on(store, work)


def test_transactions(store: Store) -> None:
    async def work(client: Client) -> None:
        claim = Txn().when(missing("txn/lock")).then(put("txn/lock", "me")).otherwise(get("txn/lock"))
        won = await client.txn(claim)
        assert won.succeeded
        assert isinstance(won.responses[0], PutResult)
        lost = await client.txn(claim)
        assert not lost.succeeded
        [held] = lost.responses
        assert isinstance(held, RangeResult)
        assert held.first is not None
        assert held.first.value == b"me"

        nested = await client.txn(
            Txn()
            .when(value("txn/lock") == "me", mod_revision("txn/lock") < 2**62)
            .then(
                Txn().when(exists("txn/none")).then(put("txn/x")).otherwise(put("txn/y", "y")),
                delete("txn/lock", prev_kv=True),
            )
        )
        inner, removed = nested.responses
        assert isinstance(inner, TxnResult)
        assert not inner.succeeded
        assert isinstance(removed, DeleteResult)
        assert removed.prev_kvs[0].value == b"me"

    on(store, work)


def test_a_compare_on_a_range_holds_for_all_of_it(store: Store) -> None:
    async def work(client: Client) -> None:
        await client.put("all/a", "same")
        await client.put("all/b", "same")
        same = Txn().when(value("all/", prefix=True) == "same").then(get("all/a"))
        assert (await client.txn(same)).succeeded
        await client.put("all/b", "other")
        assert not (await client.txn(same)).succeeded

    on(store, work)


def test_a_compacted_revision_is_an_error_of_its_own(store: Store) -> None:
    async def work(client: Client) -> None:
        first = await client.put("cmp/a", "1")
        second = await client.put("cmp/a", "2")
        await client.compact(second.header.revision, physical=True)
        with pytest.raises(Compacted) as caught:
            await client.get("cmp/a", revision=first.header.revision)
        assert caught.value.code is StatusCode.OUT_OF_RANGE
        assert caught.value.exit_code is ExitCode.NOT_EXECUTED
        with pytest.raises(Compacted):
            await client.compact(first.header.revision)
        with pytest.raises(RequestRefused) as future:
            await client.get("cmp/a", revision=second.header.revision + 1000)
        assert not isinstance(future.value, Compacted)

    on(store, work)


def test_a_refused_request_says_why_and_is_not_repeated(store: Store) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(RequestRefused, match="key is not provided") as caught:
            await client.put("", "x")
        assert caught.value.code is StatusCode.INVALID_ARGUMENT
        assert len(caught.value.attempts) == 1
        with pytest.raises(RequestRefused, match="duplicate key"):
            await client.txn(Txn().then(put("dup", "1"), put("dup", "2")))
        with pytest.raises(RequestRefused, match="lease not found"):
            await client.put("x", "y", lease=12345)

    on(store, work)


def test_cluster_questions(store: Store) -> None:
    async def work(client: Client) -> None:
        [endpoint] = client.endpoints
        status = await client.status(endpoint)
        assert status.is_leader
        assert status.version.startswith("3.")
        assert status.db_size > 0
        members = await client.member_list()
        assert [member.id for member in members.members] == [status.leader]
        assert members.members[0].client_urls == (f"http://{endpoint}",)
        assert await client.health(endpoint) is Health.SERVING
        assert await client.alarms() == ()

    on(store, work)


def test_a_large_value_and_a_large_answer(store: Store) -> None:
    async def work(client: Client) -> None:
        value = bytes(range(256)) * 4096  # 1 MiB
        for number in range(4):
            await client.put(f"large/{number}", value)
        result = await client.get("large/", prefix=True)
        assert [kv.value for kv in result] == [value] * 4
        await client.delete("large/", prefix=True)

    on(store, work)


def test_many_calls_at_once_share_one_connection(store: Store) -> None:
    async def work(client: Client) -> None:
        await asyncio.gather(*(client.put(f"many/{number}", str(number)) for number in range(300)))
        answers = await asyncio.gather(*(client.get(f"many/{number}") for number in range(300)))
        assert [a.first.value if a.first else None for a in answers] == [str(n).encode() for n in range(300)]

    on(store, work)


def test_a_cancelled_call_leaves_the_client_usable_and_nothing_behind(store: Store) -> None:
    async def main() -> None:
        async with Client(store.endpoints) as client:
            await client.put("cancel", "0")
            before = asyncio.all_tasks()
            for number in range(20):
                call = asyncio.create_task(client.put("cancel", str(number)))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert asyncio.all_tasks() == before
            await client.put("cancel", "end")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_the_blocking_client(store: Store) -> None:
    with SyncClient(store.endpoints) as client:
        for number in range(5):
            client.put(f"sync/{number}", str(number))
        assert [kv.value for kv in client.scan("sync/", prefix=True, page=2)] == [b"0", b"1", b"2", b"3", b"4"]
        scan = client.scan("sync/", prefix=True, page=1)
        assert next(scan).value == b"0"
        scan.close()  # type: ignore[attr-defined]
        assert client.txn(Txn().when(exists("sync/0")).then(delete("sync/", prefix=True))).succeeded
        assert client.status(client.endpoints[0]).is_leader
        with pytest.raises(RequestRefused):
            client.put("", "x")
    client.close()
    with pytest.raises(Exception, match="closed"):
        client.get("x")
