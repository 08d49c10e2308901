"""`plasma chainfire snapshot`: a cluster's data as one file: take it, check it, begin a new cluster with it."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.errors import StorageError
from plasmacloud.base.units import format_size
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, hex_id, table
from plasmacloud.cli.settings import Settings, cluster_command

if TYPE_CHECKING:
    from plasmacloud.client import Client
    from plasmacloud.storage.snapshot import SnapshotInfo

_PART = ".part"
_SHA_BYTES = 32
_SECTOR_BYTES = 512

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(
    epilog=examples(
        "plasma chainfire snapshot save backup.snapshot",
        "plasma chainfire snapshot status backup.snapshot",
        "plasma chainfire snapshot restore backup.snapshot --name n1 --data-dir /var/lib/chainfire",
    )
)
def snapshot() -> None:
    """Save, check and restore snapshots. `etcdctl snapshot save` makes the same file."""


@snapshot.command(
    epilog=examples(
        "plasma chainfire snapshot save backup.snapshot",
        "plasma chainfire snapshot save backup.snapshot --endpoints 10.0.0.2:2379   # from that member",
    )
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--endpoint", metavar="HOST:PORT", help="The member to take it from. [default: the first of --endpoints]")
@cluster_command
def save(settings: Settings, file: Path, endpoint: str | None) -> None:
    """Take a snapshot of the cluster's data and write it to FILE, whole or not at all.

    It has everything that was applied on the member when it began. Serving goes on meanwhile.
    """
    source = endpoint or settings.endpoint_list[0]
    part = file.with_name(file.name + _PART)
    try:
        size_bytes = settings.run(lambda client: _receive(client, source, part))
        _check_trailer(part, size_bytes)
        details = _describe_saved(part)
        os.replace(part, file)
        _sync_directory(file.parent)
    except OSError as error:
        raise StorageError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    body = {"file": str(file), "endpoint": source, "size_bytes": size_bytes, **details}
    if settings.output != "table":
        emit(body, settings.output)
        return
    revision = f", revision {details['revision']}" if "revision" in details else ""
    click.echo(f"{file}: {format_size(size_bytes)} from {source}{revision}, verified")


async def _receive(client: "Client", source: str, part: Path) -> int:
    """Write the stream to the file; returns its size."""
    size_bytes = 0
    left = -1
    with part.open("wb") as output:
        async for chunk in client.snapshot(source):
            output.write(chunk.blob)
            size_bytes += len(chunk.blob)
            left = chunk.remaining_bytes
        output.flush()
        os.fsync(output.fileno())
    # etcd counts what remains before its hash; so 32 bytes may follow a chunk that says that nothing does.
    if left > 0 or size_bytes == 0:
        raise StorageError(f"the snapshot from {source} ended {max(left, 0)} bytes early")
    return size_bytes


def _check_trailer(part: Path, size_bytes: int) -> None:
    """The last 32 bytes are the SHA-256 of the rest, in our snapshots as in etcd's."""
    if size_bytes % _SECTOR_BYTES != _SHA_BYTES:
        raise StorageError(f"the snapshot has no hash at its end ({size_bytes} bytes): it did not arrive completely")
    digest = hashlib.sha256()
    left = size_bytes - _SHA_BYTES
    with part.open("rb") as file:
        while data := file.read(min(left, 1 << 20)):
            digest.update(data)
            left -= len(data)
        if file.read() != digest.digest():
            raise StorageError("the snapshot is not what the member sent: its hash is wrong")


def _describe_saved(part: Path) -> dict[str, Any]:
    """What is in it; nothing for a snapshot of etcd."""
    from plasmacloud.storage.snapshot import DamagedSnapshot, read_info

    try:
        return _plain(read_info(part))
    except DamagedSnapshot:
        with part.open("rb") as file:
            if file.read(8) == b"PLASMSNP":
                raise
        return {}


@snapshot.command(
    epilog=examples(
        "plasma chainfire snapshot status backup.snapshot",
        "plasma chainfire snapshot status backup.snapshot -o json | jq .revision",
    )
)
@click.argument("file", type=FILE)
@cluster_command
def status(settings: Settings, file: Path) -> None:
    """Read FILE completely, check it, and say what it holds. Exit code 7 when it is damaged."""
    from plasmacloud.storage.snapshot import verify

    info = verify(file)
    body = {"file": str(file), "size_bytes": info.size_bytes, **_plain(info)}
    if settings.output != "table":
        emit(body, settings.output)
        return
    table(
        ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "CLUSTER", "INDEX", "TERM"],
        [
            [
                info.sha256[:4].hex(),
                body["revision"],
                info.records,
                format_size(info.size_bytes),
                hex_id(info.cluster_id),
                info.index,
                info.term,
            ]
        ],
    )


def _plain(info: "SnapshotInfo") -> dict[str, Any]:
    from plasmacloud.chainfire.state_meta import decode_state_meta

    state = decode_state_meta(info.meta)
    return {
        "hash": info.sha256[:4].hex(),
        "sha256": info.sha256.hex(),
        "revision": state.revision,
        "compact_revision": max(state.compact_revision, 0),
        "total_keys": info.records,
        "cluster_id": hex_id(info.cluster_id),
        "index": info.index,
        "term": info.term,
    }


@snapshot.command(
    epilog=examples(
        "plasma chainfire snapshot restore backup.snapshot --name n1 --data-dir n1 \\",
        "  --initial-cluster n1=10.0.0.1:2380,n2=10.0.0.2:2380,n3=10.0.0.3:2380 --cluster-token restored-1 \\",
        "  --bump-revision 1000000000",
    )
)
@click.argument("file", type=FILE)
@click.option("--name", required=True, help="Name of the member, as in --initial-cluster.")
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory to make. It must be empty or not exist.",
)
@click.option("--listen-peer", default="127.0.0.1:2380", show_default=True, help="Address for the other members.")
@click.option(
    "--initial-cluster",
    default="",
    help="All members of the new cluster: n1=host:port,… Without it: this member alone, at --listen-peer.",
)
@click.option(
    "--cluster-token",
    required=True,
    help="A word never used before: it makes the new cluster another one than the old.",
)
@click.option(
    "--bump-revision",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Begin N revisions above the snapshot's, with everything up to there compacted.",
)
@cluster_command
def restore(
    settings: Settings,
    file: Path,
    name: str,
    data_dir: Path,
    listen_peer: str,
    initial_cluster: str,
    cluster_token: str,
    bump_revision: int,
) -> None:
    """Make the data directory of one member of a NEW cluster that begins with the data in FILE.

    Run it with the same file and the same --initial-cluster and --cluster-token for each member; then start all of them
    with these flags. Members of the cluster that the snapshot is from cannot talk to the new one.

    Clients that watch or cache the old cluster may have seen more revisions than the snapshot has, and the new cluster
    would give them out again for other changes. With --bump-revision (say 1000000000, the same for each member) it
    begins above all of them, and such clients are told that what they know is compacted and read everything anew.
    """
    from plasmacloud.base.address import parse_address
    from plasmacloud.chainfire.members import found_cluster
    from plasmacloud.chainfire.recovery import restore_member

    peer = parse_address(listen_peer, what="--listen-peer")
    members = initial_cluster or f"{name}={peer}"
    cluster = found_cluster(members, cluster_token)
    own = cluster.member(name)
    info = restore_member(file, data_dir, name=name, cluster=cluster, bump_revision=bump_revision)
    command = (
        f"plasma chainfire serve --name {name} --data-dir {data_dir} --listen-peer {own.peer} "
        f"--initial-cluster {members} --cluster-token {cluster_token}"
    )
    body = {
        "data_dir": str(data_dir),
        "cluster_id": hex_id(cluster.cluster_id),
        "member_id": hex_id(own.id),
        **{key: value for key, value in _plain(info).items() if key in ("total_keys", "index", "term")},
        "revision": _plain(info)["revision"] + bump_revision,
        "start": command,
    }
    if settings.output != "table":
        emit(body, settings.output)
        return
    click.echo(f"{data_dir}: member {name} of the new cluster {body['cluster_id']}, revision {body['revision']}")
    errors.say("start it, when the other members are restored too, with:")
    click.echo(f"  {command} --listen-client HOST:PORT")


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
