"""What `plasma up` runs, and what it does when a node ends: decisions only.

The addresses of the nodes are part of the cluster's membership, so they are chosen once, written beside the data, and
taken from there on every later run.
"""

import errno
import signal
import socket
from enum import Enum
from pathlib import Path

import msgspec

from plasmacloud.base.errors import ConfigError, ExitCode

HOST = "127.0.0.1"
DEFAULT_PORTS = ((2379, 2380), (22379, 22380), (32379, 32380))
PLAN_FILE = "cluster.json"
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 15.0
STEADY_S = 30.0


class NodePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: its name and where it listens on this machine."""

    name: str
    client_port: int
    peer_port: int

    @property
    def client(self) -> str:
        """Address for clients."""
        return f"{HOST}:{self.client_port}"

    @property
    def peer(self) -> str:
        """Address for the other nodes."""
        return f"{HOST}:{self.peer_port}"


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster of one data directory."""

    nodes: tuple[NodePlan, ...]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients reach it."""
        return tuple(node.client for node in self.nodes)

    @property
    def initial_cluster(self) -> str:
        """The founding members, as `plasma chainfire serve` wants them."""
        return ",".join(f"{node.name}={node.peer}" for node in self.nodes)


def new_plan(port_base: int | None) -> Plan:
    """Three nodes. With ``port_base`` they listen on base, base + 1; base + 10, base + 11; base + 20, base + 21."""
    ports = (
        DEFAULT_PORTS if port_base is None else tuple((port_base + step, port_base + step + 1) for step in (0, 10, 20))
    )
    return Plan(tuple(NodePlan(f"n{number}", *pair) for number, pair in enumerate(ports, 1)))


def load_plan(data_dir: Path, port_base: int | None) -> tuple[Plan, bool]:
    """The plan of a directory, and whether it was there before. Raises `ConfigError`."""
    path = data_dir / PLAN_FILE
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except FileNotFoundError:
        if data_dir.exists() and any(entry.name != "up.lock" for entry in data_dir.iterdir()):
            raise ConfigError(
                f"{data_dir} is not empty and was not made by `plasma up`", hint="choose another with --data-dir"
            ) from None
        return new_plan(port_base), False
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    if port_base is not None and plan != new_plan(port_base):
        raise ConfigError(
            f"the cluster in {data_dir} lives at {', '.join(plan.endpoints)}, and its addresses cannot change",
            hint="leave out --port-base, or start a new cluster with another --data-dir",
        )
    return plan, True


def save_plan(plan: Plan, data_dir: Path) -> None:
    """Write the plan beside the data."""
    (data_dir / PLAN_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")


def check_ports(plan: Plan, *, fixed: bool) -> None:
    """Raise `ConfigError` when a port is taken. ``fixed``: the cluster exists, so other ports are no way out."""
    for node in plan.nodes:
        for port in (node.client_port, node.peer_port):
            check_port(port, f"node {node.name}", fixed=fixed)


def check_port(port: int, who: str, *, fixed: bool) -> None:
    """As `check_ports`, for one of them. ``who`` needs it, for the message."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            what = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise ConfigError(
                f"port {port}, which {who} needs, {what}",
                hint="stop what uses it, or start another cluster with --data-dir and --port-base"
                if fixed
                else "choose other ports, for instance with --port-base 12379",
            ) from error


class Ending(Enum):
    """What to do about a node that ended by itself."""

    RESTART = "restart"
    GIVE_UP = "give up"


class Restarts:
    """How one node is restarted: at once is too eager, so wait, twice as long each time it ends again soon."""

    def __init__(self) -> None:
        self._soon = 0

    def ended(self, code: int, ran_s: float) -> tuple[Ending, float]:
        """What to do, and after how many seconds. A refused configuration or a failed disk is not retried."""
        if code in (ExitCode.CONFIG, ExitCode.STORAGE, ExitCode.USAGE):
            return Ending.GIVE_UP, 0.0
        self._soon = 0 if ran_s >= STEADY_S else self._soon + 1
        return Ending.RESTART, min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** max(0, self._soon - 1))


def describe_ending(code: int) -> str:
    """``exited with status 1``, ``was ended by SIGKILL``."""
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
