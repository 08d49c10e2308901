"""The same elector on leases: real etcd. A store without leases is refused."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contest import DEADLINE_S, contend, contest, new_election, run, until

from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.client import Client, ClientError, Txn, put
from plasmacloud.election.backend import open_backend
from plasmacloud.election.errors import NoLeases
from plasmacloud.election.etcd_keys import fence
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.leases import decode_numbers, encode_numbers
from plasmacloud.election.timers import Timers
from plasmacloud.lab.targets.etcd import find_etcd


def _wait_until_it_answers(endpoint: str) -> None:
    async def wait() -> None:
        deadline = time.monotonic() + DEADLINE_S
        async with Client([endpoint], timeout=2.0) as client:
            while True:
                try:
                    await client.put("ready", "yes")
                    return
                except ClientError:
                    assert time.monotonic() < deadline, "the store does not answer"
                    await asyncio.sleep(0.05)

    asyncio.run(wait())


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = find_etcd()
    if program is None:
        pytest.skip("no etcd program found")
    directory = tmp_path_factory.mktemp("etcd")
    client, peer = free_ports(2)
    argv = [str(program), "--data-dir", str(directory / "data"), "--log-level", "error", "--unsafe-no-fsync"]
    argv += ["--listen-client-urls", f"http://127.0.0.1:{client}"]
    argv += ["--advertise-client-urls", f"http://127.0.0.1:{client}", "--listen-peer-urls", f"http://127.0.0.1:{peer}"]
    server = ManagedProcess("etcd", argv, log_path=directory / "etcd.log")
    over = threading.Event()
    supervisor = threading.Thread(target=_supervise, args=(server, over))
    try:
        server.start()
        supervisor.start()
        _wait_until_it_answers(f"127.0.0.1:{client}")
        yield f"etcd://127.0.0.1:{client}"
    finally:
        over.set()
        if supervisor.is_alive():
            supervisor.join()
        server.stop()


def _supervise(server: ManagedProcess, over: threading.Event) -> None:
    """Start it again when it ends, as whoever runs etcd does: 3.5.1 panics when a lease is taken away in the middle of
    a transaction that puts a key under it."""
    while not over.wait(0.1):
        if server.returncode is not None:
            server.start()


def test_whoever_resigns_is_succeeded_under_the_next_epoch(etcd: str) -> None:
    async def main() -> None:
        async with contest(etcd, "a", "b", election=new_election()) as (a, b):
            assert a.candidate.leadership.epoch == Epoch(0, 1)
            await until(lambda: b.candidate.leadership.leader_id == "a", "b sees who leads")
            assert await a.candidate.resign(60.0)
            assert not a.leads
            await until(lambda: b.leads, "b leads")
            assert b.candidate.leadership.epoch == Epoch(0, 2)
            await until(lambda: a.candidate.leadership.leader_id == "b", "a sees who leads")

    run(main())


def test_a_leader_that_dies_is_succeeded_when_its_lease_is_over(etcd: str) -> None:
    async def main() -> None:
        async with contest(etcd, "a", "b", election=new_election()) as (a, b):
            await a.end()
            await until(lambda: b.leads, "b leads")
            assert b.candidate.leadership.epoch == Epoch(0, 2)

    run(main())


def test_a_lease_that_is_taken_away_ends_the_leadership(etcd: str) -> None:
    async def main() -> None:
        election = new_election()
        async with contest(etcd, "a", election=election) as (a,), Client([etcd.removeprefix("etcd://")]) as client:
            held = (await client.get(f"/plasmacloud/election/{election}/lock")).kvs[0]
            from plasmacloud.election.leases import LeaseClient

            leases = LeaseClient([etcd.removeprefix("etcd://")], timeout=2.0)
            await leases.revoke(held.lease)
            await leases.close()
            await until(lambda: not a.leads, "a steps down")
            await until(lambda: a.leads, "a leads again")
            assert a.candidate.leadership.epoch == Epoch(0, 2)

    run(main())


def test_a_guarded_transaction_of_an_earlier_epoch_is_refused(etcd: str) -> None:
    async def main() -> None:
        election = new_election()
        async with contest(etcd, "a", "b", election=election) as (a, b), Client([etcd[7:]]) as client:
            stale = a.candidate.leadership.epoch
            assert stale is not None
            first = await client.txn(Txn().when(fence(election, stale)).then(put(f"{election}/job", "a")))
            await a.candidate.resign(60.0)
            await until(lambda: b.leads, "b leads")
            late = await client.txn(Txn().when(fence(election, stale)).then(put(f"{election}/job", "late")))
            assert (first.succeeded, late.succeeded) == (True, False)
            assert (await client.get(f"{election}/job")).kvs[0].value == b"a"

    run(main())


def test_a_store_without_leases_is_refused(tmp_path: Path) -> None:
    client, peer = free_ports(2)
    argv = [sys.executable, "-m", "plasmacloud", "chainfire", "serve", "--name", "m1", "--data-dir"]
    argv += [str(tmp_path / "data"), "--listen-client", f"127.0.0.1:{client}", "--listen-peer", f"127.0.0.1:{peer}"]
    argv += ["--initial-cluster", f"m1=127.0.0.1:{peer}"]
    server = ManagedProcess("chainfire", argv, log_path=tmp_path / "chainfire.log")
    server.start()
    try:
        _wait_until_it_answers(f"127.0.0.1:{client}")

        async def main() -> None:
            candidate = open_backend(f"etcd://127.0.0.1:{client}", node_id="a", election="e")
            with pytest.raises(NoLeases, match="offers no leases"):
                await candidate.run()

        run(main())
    finally:
        server.stop()


def test_a_store_that_is_not_there_is_waited_for() -> None:
    async def main() -> None:
        (port,) = free_ports(1)
        contender = contend(f"etcd://127.0.0.1:{port}", "a", "e", Timers(connect_timeout=0.5))
        await until(lambda: contender.candidate.problem, "the problem is known")
        assert "cannot be reached" in contender.candidate.problem
        await contender.candidate.stop()
        await contender.running

    run(main())


def test_lease_messages() -> None:
    assert encode_numbers({1: 300, 2: 0}) == b"\x08\xac\x02\x10\x00"
    assert decode_numbers(b"\x0a\x02ab\x10\xac\x02\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01") == {2: 300, 3: -1}
