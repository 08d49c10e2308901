"""`plasma chainfire`: run a node (`serve`), and look after a cluster."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.errors import ExitCode
from plasmacloud.base.units import format_size
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import Lazy, LazyGroup, examples
from plasmacloud.cli.output import emit, hex_id, table
from plasmacloud.cli.settings import Settings, cluster_command

if TYPE_CHECKING:
    from plasmacloud.client import Client, ClientError, Member, Status


@click.group(
    cls=LazyGroup,
    lazy={
        "serve": Lazy("plasmacloud.cli.serve:serve", "Run one node of the store."),
        "members": Lazy("plasmacloud.cli.members:members", "List the members and how far each one is."),
        "member": Lazy("plasmacloud.cli.members:member", "Add, remove, move and promote members."),
        "snapshot": Lazy("plasmacloud.cli.snapshot:snapshot", "Save, check and restore snapshots."),
        "recover": Lazy("plasmacloud.cli.recover:recover", "Go on with one survivor of a lost majority."),
    },
    epilog=examples(
        "plasma chainfire status",
        "plasma chainfire members",
        "plasma chainfire member add n4 10.0.0.4:2380",
        "plasma chainfire move-leader n2",
    ),
)
def chainfire() -> None:
    """Run and look after the key-value store. Looking after works with etcd as well."""


@chainfire.command(
    epilog=examples(
        "plasma chainfire status",
        "plasma chainfire status --all                              # every member, not only --endpoints",
        "plasma chainfire status -o json | jq '.[] | select(.leader)'",
    )
)
@click.option("--all", "everybody", is_flag=True, help="Ask every member of the cluster.")
@cluster_command
def status(settings: Settings, everybody: bool) -> None:
    """Show what each endpoint says of itself. Exit code 1 when one does not answer, 5 when none does."""
    rows = settings.run(lambda client: _survey(client, everybody))
    answered = [row for row in rows if isinstance(row.answer, _status_type())]
    if settings.output != "table":
        emit([row.plain() for row in rows], settings.output)
    else:
        table(_STATUS_HEADER, [row.cells() for row in rows])
    for row in rows:
        if row not in answered:
            errors.say(f"{row.endpoint}: {row.answer}", color="red")
    if not answered:
        click.get_current_context().exit(ExitCode.UNAVAILABLE)
    if len(answered) < len(rows):
        click.get_current_context().exit(ExitCode.FAILED)


_STATUS_HEADER = [
    "ENDPOINT",
    "ID",
    "NAME",
    "ROLE",
    "VERSION",
    "DB SIZE",
    "TERM",
    "INDEX",
    "APPLIED",
    "ERRORS",
]


class _Row:
    """One endpoint and what it said, or why it did not."""

    def __init__(self, endpoint: str, answer: "Status | ClientError", names: dict[int, str]) -> None:
        self.endpoint = endpoint
        self.answer = answer
        self.names = names

    def plain(self) -> dict[str, Any]:
        """For JSON and YAML."""
        answer = self.answer
        if isinstance(answer, Exception):
            return {"endpoint": self.endpoint, "ok": False, "error": str(answer)}
        return {
            "endpoint": self.endpoint,
            "ok": True,
            "id": hex_id(answer.header.member_id),
            "name": self.names.get(answer.header.member_id, ""),
            "version": answer.version,
            "db_size_bytes": answer.db_size,
            "db_size_in_use_bytes": answer.db_size_in_use,
            "leader": answer.is_leader,
            "leader_id": hex_id(answer.leader),
            "is_learner": answer.is_learner,
            "raft_term": answer.raft_term,
            "raft_index": answer.raft_index,
            "raft_applied_index": answer.applied,
            "revision": answer.header.revision,
            "errors": list(answer.errors),
        }

    def cells(self) -> list[object]:
        """For the table."""
        answer = self.answer
        if isinstance(answer, Exception):
            return [self.endpoint, *["-"] * (len(_STATUS_HEADER) - 2), "no answer"]
        role = "leader" if answer.is_leader else "learner" if answer.is_learner else "follower"
        return [
            self.endpoint,
            hex_id(answer.header.member_id),
            self.names.get(answer.header.member_id) or "-",
            role if answer.leader else "no leader",
            answer.version,
            format_size(answer.db_size),
            answer.raft_term,
            answer.raft_index,
            answer.applied,
            ", ".join(answer.errors) or "-",
        ]


def _status_type() -> type:
    from plasmacloud.client.types import Status

    return Status


async def _survey(client: "Client", everybody: bool) -> list[_Row]:
    """Ask the endpoints at once; their names from the member list of whoever has one."""
    from plasmacloud.client import ClientError

    async def names() -> dict[int, "Member"]:
        try:
            found = await client.member_list(linearizable=False)
        except ClientError:
            return {}
        return {member.id: member for member in found.members}

    async def ask(endpoint: str) -> "Status | ClientError":
        try:
            return await client.status(endpoint)
        except ClientError as error:
            return error

    if everybody:
        known = await names()
        urls = [member.client_urls[0] for member in known.values() if member.client_urls]
        endpoints = [url.partition("://")[2] or url for url in urls] or list(client.endpoints)
        answers = await asyncio.gather(*map(ask, endpoints))
    else:
        endpoints = list(client.endpoints)
        known, answers = await asyncio.gather(names(), asyncio.gather(*map(ask, endpoints)))
    by_id = {member_id: member.name for member_id, member in known.items()}
    return [_Row(endpoint, answer, by_id) for endpoint, answer in zip(endpoints, answers, strict=True)]


@chainfire.command(
    "move-leader",
    epilog=examples("plasma chainfire move-leader n2", "plasma chainfire move-leader 8e9e05c52164694d"),
)
@click.argument("target")
@cluster_command
def move_leader(settings: Settings, target: str) -> None:
    """Hand leadership to the member TARGET, given by name or ID. Does nothing if it leads already."""
    old, new = settings.run(lambda client: _move_leader(client, target))
    if settings.output != "table":
        emit({"old_leader": hex_id(old), "leader": hex_id(new)}, settings.output)
    elif old == new:
        click.echo(f"{target} is the leader already")
    else:
        click.echo(f"leadership moved from {hex_id(old)} to {hex_id(new)}")


async def _move_leader(client: "Client", target: str) -> tuple[int, int]:
    """(old, new) leader IDs."""
    from plasmacloud.cli.members import pick
    from plasmacloud.client import ClientError, Unavailable

    found = (await client.member_list()).members
    chosen = pick(list(found), target)
    places = {url.partition("://")[2] or url for member in found for url in member.client_urls}
    for endpoint in (*client.endpoints, *sorted(places - set(client.endpoints))):
        try:
            said = await client.status(endpoint)
        except ClientError:
            continue
        if not said.is_leader:
            continue
        if said.leader != chosen.id:
            await client.move_leader(chosen.id, endpoint)
        return said.leader, chosen.id
    raise Unavailable("no leader among the members that answer", hint="see `plasma chainfire status --all`")
