"""Who listens on a port: a fixed port that is taken is only half a message without the name of who has it."""

import os
import socket
from pathlib import Path

from plasmacloud.base.errors import ConfigError

_LISTEN = "0A"


def check_free(host: str, ports: dict[int, str], *, hint: str) -> None:
    """Raise `ConfigError` naming the ports that are taken, what needs them, and who has them.

    ``ports``: what each is for.
    """
    taken = [
        f"port {port}, which {what} needs, is taken{_by(port)}" for port, what in ports.items() if not _free(host, port)
    ]
    if taken:
        raise ConfigError("; ".join(taken), hint=hint)


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what remains of old connections is no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _by(port: int) -> str:
    holder = holder_of(port)
    return f" by {holder}" if holder else ""


def holder_of(port: int) -> str | None:
    """The process that listens on a TCP port of this machine, as ``process 12 (name)``; None when it cannot be seen,
    for want of rights or because it listens in another namespace."""
    sockets = {f"socket:[{inode}]" for inode in _listeners(port)}
    if not sockets:
        return None
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(os.readlink(fd) in sockets for fd in (entry / "fd").iterdir()):
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {entry.name} ({words[:80] or '?'})"
        except OSError:
            continue
    return None


def _listeners(port: int) -> list[str]:
    """Inodes of the sockets that listen there, from /proc/net/tcp and tcp6 (proc(5))."""
    found = []
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found
