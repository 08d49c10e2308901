"""What cannot work is said in words that name it, and ends the candidate; what may pass is waited for."""

import asyncio
import struct
from pathlib import Path

import pytest
from contest import connect, contend, contest, new_election, run, until, url_of
from transaction_pooler import TransactionPooler

from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.base.process import free_ports
from plasmacloud.election.backend import open_backend
from plasmacloud.election.errors import (
    AccessDenied,
    ElectionRefused,
    MissingDatabase,
    MissingPrivileges,
    PoolerInTheWay,
    ServerTooOld,
)
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.lock_key import lock_halves, lock_key
from plasmacloud.election.postgres_errors import describe_url
from plasmacloud.postgres import PostgresServer


async def _refused(url: str, kind: type[ElectionRefused], election: str = "e") -> str:
    """The message that ends the candidate."""
    candidate = open_backend(url, node_id="a", election=election)
    with pytest.raises(kind) as refusal:
        await candidate.run()
    assert refusal.value.hint, "an operator is told what to do"
    assert refusal.value.exit_code is ExitCode.CONFIG
    return str(refusal.value)


@pytest.mark.parametrize("url", ["", "mysql://x/y", "127.0.0.1:5432", "etcd://", "etcd://host:port"])
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(ConfigError):
        open_backend(url, node_id="a", election="e")


def test_names_must_not_be_empty() -> None:
    with pytest.raises(ConfigError, match="name"):
        open_backend("postgres://h/d", node_id="", election="e")


def test_a_url_that_the_driver_cannot_read(server: PostgresServer) -> None:
    run(_in(_refused("postgres://127.0.0.1:notaport/x", ElectionRefused)))


def test_a_wrong_password(server: PostgresServer) -> None:
    async def main() -> None:
        url = f"postgres://plasma:not-it@127.0.0.1:{server.port}/postgres"
        said = await _refused(url, AccessDenied)
        assert "not-it" not in said
        assert str(server.port) in said

    run(main())


def test_a_role_that_is_not_there(server: PostgresServer) -> None:
    run(_in(_refused(f"postgres://nobody:x@127.0.0.1:{server.port}/postgres", AccessDenied)))


def test_a_database_that_is_not_there(server: PostgresServer) -> None:
    run(_in(_refused(url_of(server, database="nowhere"), MissingDatabase)))


def test_a_role_that_may_not_make_tables_and_one_that_may_not_use_them(server: PostgresServer) -> None:
    async def main() -> None:
        admin = await connect(server)
        await admin.execute("CREATE ROLE guest LOGIN PASSWORD 'pw'")
        await admin.execute("CREATE DATABASE guarded")
        url = f"postgres://guest:pw@127.0.0.1:{server.port}/guarded"
        assert "schema" in await _refused(url, MissingPrivileges)
        async with contest(url_of(server, database="guarded"), "admin", election="e") as (admins,):
            assert "election_schema" in await _refused(url, MissingPrivileges)
            inside = await connect(server, database="guarded")
            await inside.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
            assert "leadership_state" in await _refused(url, MissingPrivileges)
            await inside.execute("GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO guest")
            guest = contend(url, "guest", "e")
            await until(lambda: guest.candidate.leadership.leader_id == "admin", "the guest sees who leads")
            await admins.candidate.resign(60.0)
            await until(lambda: guest.leads, "the guest leads")
            await guest.candidate.stop()
            await guest.running

    run(main())


def test_a_full_disk_is_named_and_waited_for(server: PostgresServer) -> None:
    async def main() -> None:
        admin = await connect(server)
        election = new_election()
        async with contest(url_of(server), "a", election=election) as (a,):
            await admin.execute(
                "CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
                "'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
            )
            await admin.execute(
                "CREATE TRIGGER no_space BEFORE INSERT ON leader_epochs FOR EACH ROW "
                f"WHEN (NEW.election = '{election}') EXECUTE FUNCTION no_space()"
            )
            await a.candidate.resign(0.0)
            await until(lambda: "No space left" in a.candidate.problem, "the problem is known")
            assert not a.leads
            await admin.execute("DROP TRIGGER no_space ON leader_epochs")
            await until(lambda: a.leads, "a leads when there is space")
            assert a.candidate.leadership.epoch == Epoch(1, 2)

    run(main())


def test_a_server_that_is_not_there_is_waited_for() -> None:
    async def main() -> None:
        (port,) = free_ports(1)
        contender = contend(f"postgres://x:y@127.0.0.1:{port}/z", "a", "e")
        await until(lambda: contender.candidate.problem, "the problem is known")
        assert "connection refused" in contender.candidate.problem
        assert "y@" not in contender.candidate.problem
        await contender.candidate.stop()
        await contender.candidate.stop()
        await contender.running

    run(main())


def test_a_server_that_is_too_old() -> None:
    """It greets as PostgreSQL 13 does, and is asked for nothing after that."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (length, code) = struct.unpack("!II", await reader.readexactly(8))
        if code == 80877103:
            writer.write(b"N")
            (length, code) = struct.unpack("!II", await reader.readexactly(8))
        await reader.readexactly(length - 8)
        for body in (b"server_version\x0013.14\0", b"client_encoding\0UTF8\0", b"in_hot_standby\0off\0"):
            writer.write(b"S" + struct.pack("!I", len(body) + 4) + body)
        writer.write(b"R" + struct.pack("!II", 8, 0) + b"K" + struct.pack("!III", 12, 1, 1))
        writer.write(b"Z" + struct.pack("!I", 5) + b"I")
        await reader.read()
        writer.close()

    async def main() -> None:
        fake = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = fake.sockets[0].getsockname()[1]
        try:
            assert "13.14" in await _refused(f"postgres://x:y@127.0.0.1:{port}/z", ServerTooOld)
        finally:
            fake.close()
            await asyncio.sleep(0.05)

    run(main())


def _trust(server: PostgresServer, role: str) -> None:
    """Let this role in without a password, as the small pooler needs it."""
    rules = Path(server.data_dir, "pg_hba.conf")
    rules.write_text(f"host all {role} 127.0.0.1/32 trust\n{rules.read_text()}")


def test_a_pooler_that_shares_sessions_is_refused(server: PostgresServer) -> None:
    async def main() -> None:
        admin = await connect(server)
        await admin.execute("CREATE ROLE pooled LOGIN SUPERUSER")
        _trust(server, "pooled")
        await admin.execute("SELECT pg_reload_conf()")
        election = new_election()
        async with TransactionPooler(server.port) as pooler:
            said = await _refused(f"postgres://pooled@127.0.0.1:{pooler.port}/postgres", PoolerInTheWay, election)
            assert "pooler" in said
        halves = lock_halves(lock_key(election))
        held = await admin.fetch(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid::bigint = $1 AND objid::bigint = $2",
            *halves,
        )
        assert held == []

    run(main())


def test_the_description_of_a_url_has_no_secrets() -> None:
    assert describe_url("postgres://me:secret@db:5432/app?x=y") == "PostgreSQL at db:5432/app"
    assert describe_url("postgres:///app") == "PostgreSQL at local socket/app"


def test_lock_keys_are_stable_and_of_64_bits() -> None:
    assert lock_key("default") == 5786011948913670921
    keys = {lock_key(f"e{i}") for i in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    high, low = lock_halves(-1)
    assert (high, low) == (2**32 - 1, 2**32 - 1)


async def _in(awaited: object) -> None:
    await awaited  # type: ignore[misc]
