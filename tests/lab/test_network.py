"""Networks that can be cut: what a cut stops, in which direction, what proves it, and that nothing stays behind."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import ManagedProcess, free_ports
from plasmacloud.lab.network import (
    MECHANISMS,
    NAMESPACES,
    PROXIES,
    Network,
    Stopped,
    Way,
    both,
    choose,
    isolate,
    make_network,
)
from plasmacloud.lab.network import namespaces as namespaces_module
from plasmacloud.lab.network.namespaces import namespaces_problem, read_counters
from plasmacloud.lab.network.proxies import ProxyNetwork

DEADLINE_S = 20.0
ECHO = """
import socket, sys, threading
def echo(link):
    while data := link.recv(100):
        link.send(data)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""
CALLER = """
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])))
for number in range(100000):
    link.send(b'x')
    if not link.recv(1):
        break
    print(number, flush=True)
    time.sleep(0.01)
"""


def test_counters_are_read_from_what_nft_prints() -> None:
    listing = (
        b'{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "bridge", "name": "t"}}, {"rule": '
        b'{"chain": "cut", "comment": "n1>db", "expr": [{"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, '
        b'"right": "v1"}}, {"counter": {"packets": 5, "bytes": 291}}, {"drop": null}]}}]}'
    )
    assert read_counters(listing) == {Way("n1", "db"): Stopped(5, 291)}


def test_ways() -> None:
    assert both("a", "b") == (Way("a", "b"), Way("b", "a"))
    assert set(isolate("a", ["a", "b", "c"])) == {Way("a", "b"), Way("b", "a"), Way("a", "c"), Way("c", "a")}


def test_the_mechanism_is_chosen_by_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(PROXIES) == (PROXIES, "proxies were asked for")
    with pytest.raises(ConfigError, match="no network 'magic'"):
        choose("magic")
    monkeypatch.setattr(namespaces_module, "_tried", lambda: (None, "not on Tuesdays"))
    assert choose(None) == (PROXIES, "no network namespaces: not on Tuesdays")
    with pytest.raises(ConfigError, match="not on Tuesdays"):
        choose(NAMESPACES)
    monkeypatch.setattr(namespaces_module, "_tried", lambda: (True, None))
    assert choose(None) == (NAMESPACES, "")


def test_a_proof_needs_something_stopped_on_every_way() -> None:
    class Counting(ProxyNetwork):
        silent = 0

        async def stopped(self) -> dict[Way, Stopped]:
            return {Way("a", "b"): Stopped(3, 30), Way("b", "a"): Stopped(self.silent, 0)}

    network = Counting({"a": (), "b": ()})
    assert asyncio.run(network.proof())[0] is False
    network.silent = 1
    assert asyncio.run(network.proof())[0] is True
    assert asyncio.run(ProxyNetwork({"a": ()}).proof()) == (False, "proxies on loopback: nothing is cut")


def made(mechanism: str, directory: Path) -> tuple[Network, int]:
    if mechanism == NAMESPACES and namespaces_problem() is not None:
        pytest.skip(f"no network namespaces here: {namespaces_problem()}")
    (port,) = free_ports(1)
    return make_network(mechanism, {"a": (), "b": (port,)}, directory), port


async def answers(log: Path, more: int) -> None:
    """Wait for so many more answers in the caller's log."""
    wanted = count(log) + more
    async with asyncio.timeout(DEADLINE_S):
        while count(log) < wanted:
            await asyncio.sleep(0.01)


def count(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


async def stopped_on(network: Network, *ways: Way) -> None:
    """Wait until something was stopped on one of these."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await network.stopped()
            if any(found[way].packets for way in ways):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_cut_both_ways_heal_and_cut_one_way(mechanism: str, tmp_path: Path) -> None:
    network, port = made(mechanism, tmp_path)
    programs: list[ManagedProcess] = []

    def start(host: str, text: str, *words: str) -> Path:
        argv = [*network.inside(host), sys.executable, "-u", "-c", text, *words]
        programs.append(ManagedProcess(host, argv, log_path=tmp_path / f"{host}.log"))
        programs[-1].start()
        return programs[-1].log_path

    async def life() -> None:
        where = network.reach("a", "b", port)
        await network.start()
        start("b", ECHO, network.listen("b"), str(port))
        await reached(port)
        said = start("a", CALLER, where[0], str(where[1]))
        await answers(said, 10)

        await network.cut(both("a", "b"))
        await stopped_on(network, *both("a", "b"))  # what was under way: the question or its answer
        before = count(said)
        await reached(port)  # the door is never cut
        await asyncio.sleep(0.2)
        assert count(said) <= before + 1
        assert "a -> b" in (await network.proof())[1]

        await network.heal()
        assert await network.stopped() == {}
        await answers(said, 10)

        await network.cut([Way("b", "a")])
        await stopped_on(network, Way("b", "a"))
        assert set(await network.stopped()) == {Way("b", "a")}
        assert (await network.proof())[0]
        await network.heal()
        await answers(said, 10)

    async def life_and_death() -> None:
        network.open()
        try:
            await life()
        finally:
            for program in programs:
                program.kill()
            network.close()
            network.close()
            await asyncio.sleep(0.05)  # for transports that were aborted

    asyncio.run(life_and_death())


async def reached(port: int) -> None:
    """Wait until the service answers at the door."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                writer.write(b"y")
                if await reader.read(1) == b"y":
                    return
            except OSError:
                pass
            finally:
                writer.transport.abort()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await asyncio.sleep(0.02)


def test_a_port_that_is_taken_leaves_nothing_behind(tmp_path: Path) -> None:
    network, port = made(NAMESPACES, tmp_path)

    with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigError, match="cannot make network namespaces"):
        network.open()
    assert doors(tmp_path) == []


def test_namespaces_end_with_the_process_that_made_them(tmp_path: Path) -> None:
    """Killed, it cannot clean anything up; there must be nothing to clean."""
    made(NAMESPACES, tmp_path)
    (port,) = free_ports(1)
    text = (
        "import sys, time; from pathlib import Path; from plasmacloud.lab.network import make_network\n"
        f"network = make_network('namespaces', {{'a': (), 'b': ({port},)}}, Path({str(tmp_path)!r}))\n"
        "network.open(); print('open', flush=True); time.sleep(60)"
    )
    maker = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdout.readline() == "open\n"
    pids = [int((tmp_path / f"door-{name}.log").read_text().split()[1]) for name in ("switch", "a", "b")]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    maker.send_signal(signal.SIGKILL)
    maker.communicate(timeout=DEADLINE_S)
    deadline = time.monotonic() + DEADLINE_S
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline, "doors outlive who made them"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def doors(directory: Path) -> list[int]:
    """Doors of this directory's network that still run."""
    said = [log.read_text() for log in directory.glob("door-*.log")]
    pids = [int(text.split()[1]) for text in said if text.startswith("ready ")]
    return [pid for pid in pids if alive(pid) and pid != os.getpid()]
