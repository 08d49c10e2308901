"""Hosts as network namespaces behind one bridge, made without privileges and without a name on the machine.

One user namespace holds everything; in it, one network namespace is the switch and one is each host. All of them live
exactly as long as their door processes (see `door`), which die with the lab: there is nothing to unmount and nothing to
remove by hand. Cuts are rules of nftables on the bridge, and their counters are the proof.
"""

import asyncio
import functools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.process import ManagedProcess, ProcessError
from plasmacloud.lab.network.base import LOOPBACK, Network, Stopped, Way

SUBNET = "10.77.0"
_SWITCH = "switch"
_DOOR = Path(__file__).with_name("door.py")
_TABLE = "plasma_cut"
_READY_S = 15.0
_COMMAND_S = 10.0
_SBIN = "/usr/sbin:/sbin"
_BACKLOG = 512


class NamespaceNetwork(Network):
    """See `Network`. ``logs``: a directory for what the doors say."""

    kind = "network namespaces"
    unit = "frames"

    def __init__(self, services: Mapping[str, Sequence[int]], logs: Path, *, with_user: bool | None = None) -> None:
        super().__init__(services)
        self._logs = logs
        self._with_user = _variant() if with_user is None else with_user
        self._doors: dict[str, ManagedProcess] = {}

    def open(self) -> None:
        if self._with_user is None:
            raise ConfigError(f"no network namespaces here: {namespaces_problem()}")
        try:
            new = ["--user", "--map-root-user"] if self._with_user else []
            self._start_door(_SWITCH, ["unshare", *new, "--net", "--"], ())
            self._run(_SWITCH, "ip link set lo up; ip link add br0 type bridge; ip link set br0 up")
            for number, host in enumerate(self.hosts, 1):
                joined = [*self._enter(_SWITCH, net=False), "unshare", "--net", "--"]
                self._start_door(host, joined, self.services[host])
                self._connect(number, host)
        except (ProcessError, ConfigError, OSError) as error:
            self.close()
            raise ConfigError(f"cannot make network namespaces: {error}") from error

    def _start_door(self, name: str, before: Sequence[str], ports: Sequence[int]) -> None:
        listeners = [socket.create_server((LOOPBACK, port), backlog=_BACKLOG) for port in ports]
        try:
            words = [f"{each.fileno()}:{port}" for each, port in zip(listeners, ports, strict=True)]
            argv = [*before, sys.executable, "-I", "-S", str(_DOOR), *words]
            fds = [each.fileno() for each in listeners]
            log = self._logs / f"door-{name}.log"
            door = ManagedProcess(f"the door of {name}", argv, log_path=log, env=_environment(), pass_fds=fds)
            self._doors[name] = door
            door.start()
        finally:
            for each in listeners:
                each.close()
        deadline = time.monotonic() + _READY_S
        while f"ready {door.pid}\n" not in log.read_text(errors="replace"):
            if not door.running or time.monotonic() > deadline:
                raise ConfigError(f"{door.name} does not open: {log.read_text(errors='replace').strip()[-300:]}")
            time.sleep(0.005)

    def _connect(self, number: int, host: str) -> None:
        """A cable from the switch to the host."""
        pid = self._doors[host].pid
        self._run(
            _SWITCH,
            f"ip link add v{number} type veth peer name eth0 netns {pid}; ip link set v{number} master br0 up",
        )
        self._run(
            host,
            "ip link set lo up; ip link set eth0 up; "
            f"ip addr add {self.address(host)}/24 dev eth0; ip route replace default dev eth0",
        )

    def address(self, host: str) -> str:
        """Of the host, as others see it."""
        return f"{SUBNET}.{1 + self.hosts.index(host)}"

    def inside(self, host: str, *, refuses_root: bool = False) -> tuple[str, ...]:
        words = self._enter(host)
        if refuses_root and self._with_user and os.geteuid() != 0:
            # In there everybody is root. (The real root gives its rights up by itself.)
            words = (*words, "unshare", "--user", "--map-user=1000", "--map-group=1000", "--")
        return words

    def listen(self, host: str) -> str:
        return "0.0.0.0"

    def reach(self, src: str, dst: str, port: int) -> tuple[str, int]:
        assert src in self.hosts
        assert port in self.services[dst], f"nobody listens on port {port} of {dst}"
        return self.address(dst), port

    async def _apply(self) -> None:
        rules = [
            f'iifname "{self._port(way.src)}" oifname "{self._port(way.dst)}" counter drop '
            f'comment "{way.src}>{way.dst}"'
            for way in sorted(self.ways)
        ]
        script = f"add table bridge {_TABLE}\ndelete table bridge {_TABLE}\n"
        if rules:
            chain = f"type filter hook forward priority 0; policy accept; {'; '.join(rules)};"
            script += f"table bridge {_TABLE} {{ chain cut {{ {chain} }}; }}\n"
        await self._nft("-f", "-", script=script)

    async def stopped(self) -> dict[Way, Stopped]:
        if not self.ways:
            return {}
        return read_counters(await self._nft("-j", "list", "table", "bridge", _TABLE))

    def close(self) -> None:
        for door in reversed(self._doors.values()):
            door.kill()
        self._doors.clear()

    # -- commands ----------------------------------------------------------------------------------------------

    def _port(self, host: str) -> str:
        return f"v{1 + self.hosts.index(host)}"

    def _enter(self, name: str, *, net: bool = True) -> tuple[str, ...]:
        user = ("--user", "--preserve-credentials") if self._with_user else ()
        words = ("nsenter", "--target", str(self._doors[name].pid), *user, *(("--net",) if net else ()), "--")
        return words if len(words) > 4 else ()

    def _run(self, name: str, script: str) -> None:
        """A shell script on a host. Raises `ConfigError`."""
        command = [*self._enter(name), "sh", "-e", "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, env=_environment())
        if done.returncode != 0:
            raise ConfigError(f"{script.split(';')[0]}: {done.stderr.strip() or f'status {done.returncode}'}")

    async def _nft(self, *words: str, script: str = "") -> bytes:
        """nft on the switch; a script is done as a whole or not at all. Raises `ConfigError`."""
        child = await asyncio.create_subprocess_exec(
            *self._enter(_SWITCH),
            "nft",
            *words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
        )
        try:
            async with asyncio.timeout(_COMMAND_S):
                out, err = await child.communicate(script.encode())
        finally:
            if child.returncode is None:
                child.kill()
        if child.returncode != 0:
            raise ConfigError(f"nft: {err.decode(errors='replace').strip()}")
        return out


class _Counter(msgspec.Struct):
    packets: int
    bytes: int


class _Expression(msgspec.Struct):
    counter: _Counter | None = None


class _Rule(msgspec.Struct):
    comment: str = ""
    expr: list[_Expression] = []


class _Entry(msgspec.Struct):
    rule: _Rule | None = None


class _Listing(msgspec.Struct):
    nftables: list[_Entry]


def read_counters(listing: bytes) -> dict[Way, Stopped]:
    """The counters in what ``nft -j list table`` prints (libnftables-json(5)). Pure."""
    found: dict[Way, Stopped] = {}
    for entry in msgspec.json.decode(listing, type=_Listing).nftables:
        for expression in entry.rule.expr if entry.rule is not None else ():
            if entry.rule is not None and expression.counter is not None:
                src, _, dst = entry.rule.comment.partition(">")
                found[Way(src, dst)] = Stopped(expression.counter.packets, expression.counter.bytes)
    return found


def namespaces_problem() -> str | None:
    """Why there can be no network of namespaces here; None when there can. Tried out once for each process."""
    return _tried()[1]


def _variant() -> bool | None:
    """Whether with a user namespace; None: not at all."""
    return _tried()[0]


@functools.lru_cache(maxsize=1)
def _tried() -> tuple[bool | None, str | None]:
    missing = [name for name in ("unshare", "nsenter", "ip", "nft") if shutil.which(name, path=_path()) is None]
    if missing:
        return None, f"there is no {', '.join(missing)}"
    problems: list[str] = []
    for with_user in (True, False) if os.geteuid() == 0 else (True,):
        problem = _try(with_user)
        if problem is None:
            return with_user, None
        problems.append(problem)
    return None, "; ".join(dict.fromkeys(problems))


def _try(with_user: bool) -> str | None:
    """Whether a bridge, a cable to another namespace and a rule on the bridge can be made; nothing is left of them."""
    script = (
        "ip link add br0 type bridge && ip link add v1 type veth peer name e1 && ip link set v1 master br0 && "
        "nft 'table bridge t { chain c { type filter hook forward priority 0; iifname \"v1\" counter drop; }; }' && "
        "unshare --net -- true && unshare --user --map-user=1000 --map-group=1000 -- true"
    )
    user = ["--user", "--map-root-user"] if with_user else []
    command = ["unshare", *user, "--net", "--", "sh", "-c", script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, env=_environment())
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit status {done.returncode}"


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _path(), "LC_ALL": "C"}


def _path() -> str:
    """Where the programs are: not everybody's PATH has those of administrators."""
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{_SBIN}"
