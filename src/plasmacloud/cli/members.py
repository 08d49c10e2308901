"""`plasma chainfire members` and `plasma chainfire member …`: who belongs to the cluster, and changing that.

With ChainFire members have progress, names before they start, and become voters by themselves; with etcd the same
commands use what etcd has.
"""

from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.address import parse_address
from plasmacloud.base.units import format_duration, format_size
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit, hex_id, table
from plasmacloud.cli.settings import Settings, cluster_command

if TYPE_CHECKING:
    from plasmacloud.client import Client, ClusterView, Member, MemberList, MemberProgress, RequestRefused

_JOIN_STORY = """\b
A new member joins in three steps, and writes go on all the time:
  1. plasma chainfire member add n4 10.0.0.4:2380
     tells the cluster. Returns at once: the member is a learner, counts in no
     quorum, and blocks nothing if it never starts.
  2. plasma chainfire serve --name n4 --data-dir /var/lib/chainfire
       --listen-peer 10.0.0.4:2380 --listen-client 10.0.0.4:2379
       --join 10.0.0.1:2379
     on the new machine, with an empty data directory.
  3. plasma chainfire members
     shows how far it is. It becomes a voter by itself when it has caught up.
A member whose disk is lost is removed (or replaced: member add --replace) and
joins anew with an empty directory; its old id never comes back.
"""


@click.command(
    epilog=examples(
        "plasma chainfire members",
        "watch plasma chainfire members                             # see a new member catch up",
        "plasma chainfire members -o json | jq '.members[] | select(.active | not)'",
    )
)
@cluster_command
def members(settings: Settings) -> None:
    """List the members: role, how far each one's log is, when it was last heard.

    \b
    ROLE     voter; learner: receives everything, counts in no quorum; joining: a
             learner that becomes a voter when it has caught up; leaving
    STATE    leader, follows, catches up, snapshot (too far behind for the log),
             silent, never started
    MATCH    the last entry of its log that is known to be the leader's
    LAG      entries it lacks
    CONTACT  time since the leader heard it
    JOIN     a learner's progress, and when it is removed if there is none
    """
    seen = settings.run(_view)
    if seen is None:
        _show_plain(settings, settings.run(lambda client: client.member_list()))
        return
    if settings.output != "table":
        emit(_view_plain(seen), settings.output)
        return
    table(_HEADER, [_cells(member, seen) for member in seen.members])
    if not seen.from_leader:
        why = "no leader is known" if not seen.leader_id else "the leader cannot be asked"
        errors.say(f"{why}: what it knows of the others is missing", color="yellow")
    if seen.joint:
        errors.say("a change of several members is being completed")
    if seen.election_timeout_s > seen.configured_election_timeout_s:
        errors.say(
            f"slow network or disk: the election timeout is {format_duration(seen.election_timeout_s)} for now, "
            f"configured {format_duration(seen.configured_election_timeout_s)}",
            color="yellow",
        )


_HEADER = ["ID", "NAME", "ROLE", "STATE", "MATCH", "LAG", "CONTACT", "JOIN", "PEERS", "CLIENTS"]


async def _view(client: "Client") -> "ClusterView | None":
    """The members with their progress; None from a server that has no such call: etcd."""
    from plasmacloud.client import RequestRefused

    try:
        return await client.cluster_view()
    except RequestRefused as refused:
        if _no_such_call(refused):
            return None
        raise


def _no_such_call(refused: "RequestRefused") -> bool:
    from plasmacloud.rpc.status import StatusCode

    return refused.code is StatusCode.UNIMPLEMENTED


def _cells(member: "MemberProgress", seen: "ClusterView") -> list[object]:
    known = seen.from_leader
    contact = "-" if member.last_contact_s is None or member.state == "leader" else _time(member.last_contact_s)
    return [
        hex_id(member.id),
        member.name or "-",
        _role(member),
        _state(member, seen),
        member.match if known else "-",
        member.lag_entries if known else "-",
        contact,
        _join(member),
        ",".join(_bare(url) for url in member.peer_urls),
        ",".join(_bare(url) for url in member.client_urls) or "-",
    ]


def _role(member: "MemberProgress") -> str:
    return "joining" if member.role == "learner" and member.promote else member.role


def _state(member: "MemberProgress", seen: "ClusterView") -> str:
    if member.id == seen.leader_id:
        return "leader"
    if not seen.from_leader:
        return "unknown" if member.started else "never started"
    if not member.active:
        return "silent" if member.started or member.match else "never started"
    return {"replicate": "follows", "probe": "catches up"}.get(member.state, member.state)


def _join(member: "MemberProgress") -> str:
    join = member.join
    if join is None:
        return "-"
    parts = []
    if member.match or join.percent:
        parts.append(f"{join.percent}%")
    if member.active and member.lag_entries and member.lag_bytes:
        parts.append(f"{format_size(member.lag_bytes)} left")
    if member.active and join.eta_s:
        parts.append(f"about {_time(join.eta_s)}")
    if member.promote and join.rounds_done:
        parts.append(f"check {join.rounds_done} of {join.rounds_needed}")
    if join.expires_in_s is not None and not member.active:
        parts.append(f"removed in {_time(join.expires_in_s)} unless it comes")
    return ", ".join(parts) or "-"


def _time(seconds: float) -> str:
    """Seconds for a table: nobody needs more than one digit."""
    return format_duration(seconds) if seconds >= 60 else f"{seconds:.1f}s"


def _bare(url: str) -> str:
    return url.removeprefix("http://")


def _view_plain(seen: "ClusterView") -> dict[str, Any]:
    return {
        "cluster_id": hex_id(seen.cluster_id),
        "leader_id": hex_id(seen.leader_id) if seen.leader_id else None,
        "raft_term": seen.raft_term,
        "last_index": seen.last_index,
        "commit_index": seen.commit_index,
        "from_leader": seen.from_leader,
        "joint": seen.joint,
        "election_timeout_s": seen.election_timeout_s,
        "configured_election_timeout_s": seen.configured_election_timeout_s,
        "members": [_progress_plain(member, seen) for member in seen.members],
    }


def _progress_plain(member: "MemberProgress", seen: "ClusterView") -> dict[str, Any]:
    known = seen.from_leader
    join = member.join
    return {
        "id": hex_id(member.id),
        "name": member.name,
        "is_learner": member.role == "learner",
        "peer_urls": list(member.peer_urls),
        "client_urls": list(member.client_urls),
        "role": _role(member),
        "state": _state(member, seen),
        "started": member.started,
        "active": member.active if known else None,
        "match_index": member.match if known else None,
        "lag_entries": member.lag_entries if known else None,
        "lag_bytes": member.lag_bytes if known else None,
        "last_contact_s": member.last_contact_s,
        "promote": member.promote,
        "replaces": hex_id(member.replaces) if member.replaces else None,
        "join": None
        if join is None
        else {
            "percent": join.percent,
            "entries_per_second": round(join.entries_per_second, 1),
            "eta_s": join.eta_s,
            "rounds_done": join.rounds_done,
            "rounds_needed": join.rounds_needed,
            "expires_in_s": join.expires_in_s,
        },
    }


def _show_plain(settings: Settings, found: "MemberList") -> None:
    """What etcd tells."""
    if settings.output != "table":
        emit(
            {"cluster_id": hex_id(found.header.cluster_id), "members": [_plain(m) for m in found.members]},
            settings.output,
        )
        return
    table(
        ["ID", "NAME", "ROLE", "PEERS", "CLIENTS"],
        [
            [
                hex_id(member.id),
                member.name or "(never started)",
                "learner" if member.is_learner else "voter",
                ",".join(_bare(url) for url in member.peer_urls),
                ",".join(_bare(url) for url in member.client_urls) or "-",
            ]
            for member in found.members
        ],
    )


def _plain(member: "Member") -> dict[str, Any]:
    return {
        "id": hex_id(member.id),
        "name": member.name,
        "is_learner": member.is_learner,
        "peer_urls": list(member.peer_urls),
        "client_urls": list(member.client_urls),
    }


# -- changes -------------------------------------------------------------------------------------------------------


@click.group(epilog=_JOIN_STORY)
def member() -> None:
    """Add, remove, move and promote members.

    Changes are made one at a time. One that would leave the cluster without a working quorum is refused.
    """


@member.command(
    epilog=_JOIN_STORY
    + "\n"
    + examples(
        "plasma chainfire member add n4 10.0.0.4:2380",
        "plasma chainfire member add reader 10.0.0.9:2380 --learner",
        "plasma chainfire member add n3b 10.0.0.13:2380 --replace n3",
    )
)
@click.argument("name")
@click.argument("address", metavar="HOST:PORT")
@click.option("--learner", is_flag=True, help="It stays a learner until `member promote`.")
@click.option("--replace", metavar="MEMBER", help="Takes the place of this member (name or ID) when it has caught up.")
@cluster_command
def add(settings: Settings, name: str, address: str, learner: bool, replace: str | None) -> None:
    """Add the member NAME, which other members will reach at HOST:PORT (its --listen-peer)."""
    peer = parse_address(address, what="HOST:PORT")
    if learner and replace:
        raise click.UsageError("--learner and --replace contradict each other: who replaces a voter becomes one")
    shown, endpoints = settings.run(lambda client: _add(client, name, peer.url, learner, replace))
    if settings.output != "table":
        emit(shown, settings.output)
        return
    voting = "a voter at once" if not shown["is_learner"] else "a learner" if learner else "a learner for now"
    click.echo(f"member {name} ({shown['id']}) added, {voting}. Start it on its machine, in an empty directory:")
    click.echo(f"  plasma chainfire serve --name {name} --data-dir {name} --listen-peer {peer} --join {endpoints[0]}")
    if not learner and shown["is_learner"]:
        click.echo("It becomes a voter by itself when it has caught up; see `plasma chainfire members`.")


async def _add(
    client: "Client", name: str, url: str, learner: bool, replace: str | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    from plasmacloud.client import RequestRefused

    replaces = (await _find(client, replace)).id if replace else 0
    try:
        added = await client.add_member([url], name=name, learner=learner, replaces=replaces)
        shown = {
            "id": hex_id(added.id),
            "name": added.name,
            "is_learner": added.role == "learner",
            "peer_urls": list(added.peer_urls),
            "promote": added.promote,
            "replaces": hex_id(added.replaces) if added.replaces else None,
        }
    except RequestRefused as refused:
        if not _no_such_call(refused):
            raise
        if replaces:
            raise click.UsageError("--replace needs ChainFire; with etcd remove the old member, then add") from None
        plain = (await client.member_add([url], learner=learner)).member
        shown = {**_plain(plain), "name": name}
    return shown, client.endpoints


@member.command(epilog=examples("plasma chainfire member remove n3", "plasma chainfire member remove 8e9e05c52164694d"))
@click.argument("who", metavar="MEMBER")
@cluster_command
def remove(settings: Settings, who: str) -> None:
    """Remove MEMBER (name or ID) for good.

    It is told, and stops. To come back it is added again and starts with an empty data directory.
    """

    async def work(client: "Client") -> "Member":
        found = await _find(client, who)
        await client.member_remove(found.id)
        return found

    _done(settings, settings.run(work), "removed")


@member.command(epilog=examples("plasma chainfire member update n2 10.0.7.2:2380"))
@click.argument("who", metavar="MEMBER")
@click.argument("addresses", metavar="HOST:PORT…", nargs=-1, required=True)
@cluster_command
def update(settings: Settings, who: str, addresses: tuple[str, ...]) -> None:
    """Tell the others that MEMBER (name or ID) is reached at HOST:PORT from now on."""
    urls = [parse_address(address, what="HOST:PORT").url for address in addresses]

    async def work(client: "Client") -> "Member":
        found = await _find(client, who)
        after = (await client.member_update(found.id, urls)).members
        return next(member for member in after if member.id == found.id)

    _done(settings, settings.run(work), "updated")


@member.command(epilog=examples("plasma chainfire member promote reader"))
@click.argument("who", metavar="MEMBER")
@cluster_command
def promote(settings: Settings, who: str) -> None:
    """Make the learner MEMBER (name or ID) a voter. Refused while it lags behind."""

    async def work(client: "Client") -> "Member":
        found = await _find(client, who)
        after = (await client.member_promote(found.id)).members
        return next(member for member in after if member.id == found.id)

    _done(settings, settings.run(work), "promoted")


def _done(settings: Settings, changed: "Member", what: str) -> None:
    if settings.output != "table":
        emit(_plain(changed), settings.output)
    else:
        click.echo(f"member {changed.name or '(never started)'} ({hex_id(changed.id)}) {what}")


async def _find(client: "Client", who: str) -> "Member":
    """The member by name or ID. ChainFire knows the names of members that never started, too."""
    from plasmacloud.client import Member

    seen = await _view(client)
    if seen is None:
        found = list((await client.member_list()).members)
    else:
        found = [Member(m.id, m.name, m.peer_urls, m.client_urls, m.role == "learner") for m in seen.members]
    return pick(found, who)


def pick(found: "list[Member]", who: str) -> "Member":
    """The one member with that name or ID. Raises a usage error that names the members."""
    chosen = [member for member in found if who in (member.name, hex_id(member.id))]
    if len(chosen) != 1:
        names = ", ".join(f"{member.name or '(never started)'} ({hex_id(member.id)})" for member in found)
        problem = "more than one member is called" if chosen else "there is no member"
        raise click.UsageError(f"{problem} {who!r}; the members are {names}")
    return chosen[0]
