"""The settings of one ChainFire member, checked before anything is opened or started."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from plasmacloud.base.address import Address, parse_address
from plasmacloud.base.errors import ConfigError
from plasmacloud.base.units import format_duration
from plasmacloud.chainfire.members import ClusterIdentity, Member, found_cluster

MIN_ELECTION_TIMEOUT_S = 0.05
MAX_ELECTION_TIMEOUT_S = 60.0
MAX_MEMBERS = 15
_TICK_FRACTION = 30  # ticks in an election timeout: fine enough to stagger candidates, coarse enough to cost nothing


class ServerConfig(msgspec.Struct, frozen=True):
    """What `serve` needs to know. Build it with `make_config`, which checks it."""

    member: Member
    cluster: ClusterIdentity
    data_dir: Path
    listen_client: Address
    listen_peer: Address
    advertise_client: tuple[str, ...]
    election_timeout_s: float = 0.3
    heartbeat_interval_s: float = 0.05
    request_timeout_s: float = 5.0
    checkpoint_interval_s: float = 1.0
    max_inflight_commands: int = 20_000
    max_inflight_bytes: int = 64 << 20

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
    initial_cluster: str,
    cluster_token: str = "plasmacloud",
    advertise_client: Sequence[str] = (),
    election_timeout_s: float = 0.3,
    heartbeat_interval_s: float = 0.05,
) -> ServerConfig:
    """Check the settings against each other. Raises `ConfigError` that names the flag and says what to write."""
    client = parse_address(listen_client, what="--listen-client")
    peer = parse_address(listen_peer, what="--listen-peer")
    if client == peer:
        raise ConfigError(f"--listen-client and --listen-peer are both {client}", hint="give them different ports")
    cluster = found_cluster(initial_cluster or f"{name}={peer}", cluster_token)
    if len(cluster.members) > MAX_MEMBERS:
        raise ConfigError(f"--initial-cluster has {len(cluster.members)} members", hint=f"at most {MAX_MEMBERS} vote")
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
    urls = tuple(parse_address(url, what="--advertise-client").url for url in advertise_client) or (client.url,)
    return ServerConfig(
        member=cluster.member(name),
        cluster=cluster,
        data_dir=data_dir,
        listen_client=client,
        listen_peer=peer,
        advertise_client=urls,
        election_timeout_s=election_timeout_s,
        heartbeat_interval_s=heartbeat_interval_s,
    )
