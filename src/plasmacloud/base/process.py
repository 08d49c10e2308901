"""Child processes that are always ours to stop.

`plasma up`, the lab and the tests start servers. Each child has its own log file, dies with its parent, and is only
ever signalled through the PID it was started with, while that child has not been reaped: a reused PID is never hit.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from plasmacloud.base.errors import ConfigError, PlasmaError

PORT_RANGE = "PLASMA_PORT_RANGE"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.005
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessError(PlasmaError):
    """A child could not be started, or did not do what it was told in time."""


class ManagedProcess:
    """One child process. Its standard output and error go to ``log_path``, appended. ``pass_fds``: what it inherits."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log_path = log_path
        self.env = dict(env) if env is not None else None
        self.cwd = cwd
        self.pass_fds = tuple(pass_fds)
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the child. Raises `ProcessError` when it already runs or the program is not there."""
        if self.running:
            raise ProcessError(f"{self.name} already runs as process {self.pid}")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        parent = os.getpid()
        with self.log_path.open("ab") as log:
            try:
                self._child = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.env,
                    cwd=self.cwd,
                    pass_fds=self.pass_fds,
                    start_new_session=True,
                    preexec_fn=lambda: _die_with_parent(parent),
                )
            except OSError as error:
                raise ProcessError(f"cannot start {self.name}: {self.argv[0]}: {error.strerror}") from error

    @property
    def pid(self) -> int:
        """PID of the child started last. Raises `ProcessError` when none ever was."""
        if self._child is None:
            raise ProcessError(f"{self.name} was never started")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the child has been started and has not ended."""
        return self._child is not None and self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status; negative: the signal that ended it; None: not ended, or never started."""
        return None if self._child is None else self._child.poll()

    def signal(self, signum: int) -> None:
        """Send a signal. Raises `ProcessError` when the child has ended."""
        if not self.running:
            raise ProcessError(f"{self.name} does not run, so it cannot be sent {signal.Signals(signum).name}")
        os.kill(self.pid, signum)

    def wait(self, timeout: float) -> int:
        """Exit status. Raises `ProcessError` when the child still runs after ``timeout`` seconds."""
        assert self._child is not None, "wait for a process that was never started"
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} (process {self.pid}) still runs after {timeout:g} s") from None

    async def wait_async(self, timeout: float) -> int:
        """As `wait`, without blocking the event loop."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() >= deadline:
                raise ProcessError(f"{self.name} (process {self.pid}) still runs after {timeout:g} s")
            await asyncio.sleep(_POLL_S)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """SIGKILL and reap. Does nothing when the child has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait(10.0)

    def stop(self, grace: float = 5.0) -> int | None:
        """SIGTERM, then SIGKILL after ``grace`` seconds. Returns the exit status; None when never started."""
        if not self.running:
            return self.returncode
        self._begin_stop()
        try:
            return self.wait(grace)
        except ProcessError:
            self.kill()
            return self.returncode

    async def stop_async(self, grace: float = 5.0) -> int | None:
        """As `stop`, without blocking the event loop."""
        if not self.running:
            return self.returncode
        self._begin_stop()
        try:
            return await self.wait_async(grace)
        except ProcessError:
            self.kill()
            return self.returncode

    def _begin_stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGCONT)  # a frozen child must be able to see its SIGTERM

    def proc_state(self) -> str:
        """The state letter of /proc/PID/stat (``R``, ``S``, ``T``, ``Z`` …), or ``gone``."""
        if self._child is None:
            return "gone"
        try:
            stat = Path(f"/proc/{self._child.pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return "gone"
        return stat.rpartition(")")[2].split()[0]


def _die_with_parent(parent: int) -> None:
    """In the child, before exec: be killed when the parent's thread ends; end now if it already has."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports that were free a moment ago, all different.

    Below the range from which the kernel picks ports for outgoing connections, so that a client of the test run does
    not take one between this call and the server's start. Whoever starts several such processes at once gives each a
    range of its own, for the same reason: ``PLASMA_PORT_RANGE=20000-24999``. Raises `ConfigError` for what is no range.
    """
    first, last = _port_range()
    found: list[int] = []
    span = last - first + 1
    offset = (os.getpid() * 7919 + time.monotonic_ns() // 1000) % span
    for step in range(span):
        port = first + (offset + step) % span
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ProcessError(f"no {count} free ports on {host}")


def _port_range() -> tuple[int, int]:
    text = os.environ.get(PORT_RANGE)
    if text is None:
        low = _ephemeral_range_start()
        return (10_000, low - 1) if low > 12_000 else (20_000, 60_000)
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 1024 <= int(first) < int(last) <= 65_535):
        raise ConfigError(f"{PORT_RANGE}={text} is no range of ports", hint=f"for example {PORT_RANGE}=20000-24999")
    return int(first), int(last)


def _ephemeral_range_start() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 32_768
