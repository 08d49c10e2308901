"""The settings of one ChainFire member, checked before anything is opened or started."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.members import ClusterIdentity, Member, found_cluster
from plasmacloud.chainfire.membership_policy import PolicyConfig
from plasmacloud.chainfire.security import Security, refuse_open
from plasmacloud.chainfire.tuning import Tuning

MIN_ELECTION_TIMEOUT_S = 0.05
MAX_ELECTION_TIMEOUT_S = 60.0
MAX_MEMBERS = 15
_TICK_FRACTION = 30  # ticks in an election timeout: fine enough to stagger candidates, coarse enough to cost nothing


class Start(Enum):
    """How a member comes by its place in a cluster when its data directory is empty."""

    FOUND = "found"  # the founders are known: --initial-cluster, --bootstrap, or none of the flags
    JOIN = "join"  # ask a member: --join
    EXPECT = "expect"  # agree with others on who founds: --bootstrap-expect


class ServerConfig(msgspec.Struct, frozen=True):
    """What `serve` needs to know. Build it with `make_config`, which checks it.

    ``member`` and ``cluster`` are complete for `Start.FOUND`; otherwise ids and founders are found out at the start,
    and ``contacts`` are members to dial before the cluster has told who belongs to it.
    """

    member: Member
    cluster: ClusterIdentity
    data_dir: Path
    listen_client: Address
    listen_peer: Address
    advertise_client: tuple[str, ...]
    start: Start = Start.FOUND
    flags_name_cluster: bool = True
    """Whether the flags say which cluster this is; if not, a data directory that exists decides."""
    contacts: tuple[Member, ...] = ()
    join: tuple[Address, ...] = ()
    join_timeout_s: float = 60.0
    learner: bool = False
    expect: int = 0
    seeds: tuple[Address, ...] = ()
    cluster_token: str = "plasmacloud"
    security: Security = Security()
    policy: PolicyConfig = PolicyConfig()
    snapshot_rate_bytes_s: float = 0.0
    election_timeout_s: float = 0.3
    heartbeat_interval_s: float = 0.05
    request_timeout_s: float = 5.0
    checkpoint_interval_s: float = 1.0
    history_limit_bytes: int = 512 << 20
    max_inflight_commands: int = 20_000
    max_inflight_bytes: int = 64 << 20
    tuning: Tuning = Tuning()

    @property
    def tick_s(self) -> float:
        """Length of one raft tick."""
        return self.election_timeout_s / _TICK_FRACTION

    @property
    def election_ticks(self) -> int:
        """Ticks without a leader after which a member stands for election (plus a random part)."""
        return _TICK_FRACTION

    @property
    def heartbeat_ticks(self) -> int:
        """Ticks between two heartbeats of a leader."""
        return max(1, round(self.heartbeat_interval_s / self.tick_s))


def make_config(
    *,
    name: str,
    data_dir: Path,
    listen_client: str,
    listen_peer: str,
    initial_cluster: str = "",
    cluster_token: str = "plasmacloud",
    advertise_client: Sequence[str] = (),
    bootstrap: bool = False,
    join: Sequence[str] = (),
    join_timeout_s: float = 60.0,
    learner: bool = False,
    bootstrap_expect: int = 0,
    seeds: Sequence[str] = (),
    election_timeout_s: float = 0.3,
    heartbeat_interval_s: float = 0.05,
    policy: PolicyConfig | None = None,
    snapshot_rate_bytes_s: float = 0.0,
    history_limit_bytes: int = 512 << 20,
    security: Security | None = None,
    insecure: bool = False,
) -> ServerConfig:
    """Check the settings against each other. Raises `ConfigError` that names the flag and says what to write.

    ``insecure``: plaintext may leave this machine.
    """
    security = security or Security()
    client = parse_address(listen_client, what="--listen-client")
    peer = parse_address(listen_peer, what="--listen-peer")
    if client == peer:
        raise ConfigError(f"--listen-client and --listen-peer are both {client}", hint="give them different ports")
    if not insecure:
        refuse_open(security, client, peer)
    security.check(name)
    start = _start(initial_cluster, bootstrap, join, bootstrap_expect, seeds)
    _check_timeouts(election_timeout_s, heartbeat_interval_s)
    if start is Start.FOUND:
        cluster = found_cluster(initial_cluster or f"{name}={peer}", cluster_token)
        if len(cluster.members) > MAX_MEMBERS:
            raise ConfigError(
                f"--initial-cluster has {len(cluster.members)} members", hint=f"at most {MAX_MEMBERS} vote"
            )
        member = cluster.member(name)
    else:
        cluster = ClusterIdentity(cluster_id=0, members=())
        member = Member(id=0, name=name, peers=(peer,))
    advertised = [parse_address(url, what="--advertise-client") for url in advertise_client] or [client]
    return ServerConfig(
        member=member,
        cluster=cluster,
        data_dir=data_dir,
        listen_client=client,
        listen_peer=peer,
        advertise_client=tuple(address.url_with(security.client_scheme) for address in advertised),
        start=start,
        flags_name_cluster=bool(initial_cluster) or bootstrap,
        join=tuple(parse_address(address, what="--join") for address in join),
        join_timeout_s=join_timeout_s,
        learner=learner,
        expect=bootstrap_expect,
        seeds=tuple(parse_address(address, what="--seeds") for address in seeds),
        cluster_token=cluster_token,
        security=security,
        policy=msgspec.structs.replace(policy or PolicyConfig(), round_s=election_timeout_s),
        snapshot_rate_bytes_s=snapshot_rate_bytes_s,
        history_limit_bytes=history_limit_bytes,
        election_timeout_s=election_timeout_s,
        heartbeat_interval_s=heartbeat_interval_s,
    )


def _start(initial_cluster: str, bootstrap: bool, join: Sequence[str], expect: int, seeds: Sequence[str]) -> Start:
    ways = {
        "--initial-cluster": bool(initial_cluster),
        "--bootstrap": bootstrap,
        "--join": bool(join),
        "--bootstrap-expect": expect > 0,
    }
    chosen = [flag for flag, given in ways.items() if given]
    if len(chosen) > 1:
        raise ConfigError(
            f"{' and '.join(chosen)} exclude each other",
            hint="a member founds a cluster alone, founds it with others, or joins one",
        )
    if seeds and not expect:
        raise ConfigError("--seeds without --bootstrap-expect", hint="how many machines shall found the cluster?")
    if expect:
        if not 0 < expect <= MAX_MEMBERS:
            raise ConfigError(f"--bootstrap-expect {expect} is out of range", hint=f"use 1 to {MAX_MEMBERS}")
        if not seeds and expect > 1:
            raise ConfigError(
                "--bootstrap-expect without --seeds", hint="name client addresses of some of the machines"
            )
        return Start.EXPECT
    return Start.JOIN if join else Start.FOUND


def _check_timeouts(election_timeout_s: float, heartbeat_interval_s: float) -> None:
    if not MIN_ELECTION_TIMEOUT_S <= election_timeout_s <= MAX_ELECTION_TIMEOUT_S:
        raise ConfigError(
            f"--election-timeout {format_duration(election_timeout_s)} is out of range",
            hint=f"use {format_duration(MIN_ELECTION_TIMEOUT_S)} to {format_duration(MAX_ELECTION_TIMEOUT_S)}",
        )
    if not 0 < heartbeat_interval_s <= election_timeout_s / 3:
        raise ConfigError(
            f"--heartbeat-interval {format_duration(heartbeat_interval_s)} does not fit "
            f"--election-timeout {format_duration(election_timeout_s)}",
            hint="a heartbeat is at most a third of the election timeout, so that one lost message starts no election",
        )
