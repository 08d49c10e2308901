"""`plasma chainfire recover`: go on with what one survivor has, when the majority is lost for good."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.errors import ConfigError, ExitCode
from plasmacloud.cli import errors
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit
from plasmacloud.cli.settings import DEFAULT_ENDPOINTS, Settings, cluster_command

if TYPE_CHECKING:
    from plasmacloud.chainfire.recovery import Findings, Plan, Survivor
    from plasmacloud.cli.others import Other


@click.command(
    epilog=examples(
        "plasma chainfire recover --data-dir /var/lib/chainfire --dry-run",
        "plasma chainfire recover --data-dir /var/lib/chainfire",
        "plasma chainfire recover --data-dir /var/lib/chainfire --yes -o json",
    )
)
@click.option(
    "--data-dir",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The data directory of the survivor. Choose the one with the highest last index.",
)
@click.option("--name", help="Another name for the member. [default: the one it had]")
@click.option("--listen-peer", metavar="HOST:PORT", help="Its peer address. [default: the one it had]")
@click.option(
    "--listen-client", metavar="HOST:PORT", help="For the commands shown. [default: where its clients found it]"
)
@click.option("--dry-run", is_flag=True, help="Only show what is there and what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also while others answer, with which this member would be a majority.")
@cluster_command
def recover(
    settings: Settings,
    data_dir: Path,
    name: str | None,
    listen_peer: str | None,
    listen_client: str | None,
    dry_run: bool,
    yes: bool,
    force: bool,
) -> None:
    """Make the stopped member in --data-dir a new cluster of its own, with everything its log holds.

    Only for a cluster whose majority is lost for good: while a majority can come back, start it instead. The other
    members are asked first; when enough of them answer to be a majority with this one, nothing is done.

    The new cluster has a new id; members of the old one can never talk to it. Run it on ONE survivor: `--dry-run` on
    each of them shows the last index, and the highest has the most. The old log and state stay aside until the next
    successful start.
    """
    from plasmacloud.chainfire.recovery import finish, grow_commands, open_survivor

    with open_survivor(data_dir) as survivor:
        if survivor is None:
            _report_finished(settings, data_dir)
            return
        findings = survivor.findings
        plan = survivor.plan(name=name, peer=listen_peer)
        others = [] if findings.alone_already else _ask_others(settings, survivor)
        listen_client = listen_client or plan.client or DEFAULT_ENDPOINTS
        commands = grow_commands(plan, data_dir, findings.vanish, listen_client, settings.tls)
        if settings.output == "table":
            _show(findings, plan, others, dry_run)
        refusal = _majority_lives(survivor, others)
        if dry_run or findings.alone_already:
            if settings.output != "table":
                emit(_plain(findings, plan, others, commands, done=False), settings.output)
            elif findings.alone_already:
                errors.say("it is a cluster of its own already: nothing was changed; just start it", color="green")
            elif refusal is not None:
                errors.say(f"without --dry-run this would be refused: {refusal}", color="red")
            return
        if refusal is not None and not force:
            raise refusal
        if not yes:
            _ask(findings)
        outcome = survivor.build(plan)
    finish(data_dir)
    if settings.output != "table":
        body = _plain(findings, plan, others, commands, done=True)
        body["kept_aside"] = list(outcome.kept_aside)
        body["index"], body["recovered_revision"] = outcome.index, outcome.revision
        emit(body, settings.output)
        return
    errors.say(f"done: cluster {outcome.cluster_id}, index {outcome.index}, revision {outcome.revision}", color="green")
    click.echo(f"Kept aside until the next successful start: {', '.join(outcome.kept_aside)}")
    click.echo("\nStart it, then let the cluster grow, one member at a time:")
    for command in commands:
        click.echo(f"  {command}")
    if plan.tls:
        click.echo("DIR: where a member's certificates are. If clients showed none, leave --client-auth out.")


def _ask_others(settings: Settings, survivor: "Survivor") -> "list[Other]":
    from plasmacloud.cli.others import ask_others

    own = survivor.owner.identity
    members = sorted((m for m in survivor.members if m.id != own.member_id), key=lambda member: member.name)
    return settings.run(lambda client: ask_others(client, members, own.cluster_id))


def _majority_lives(survivor: "Survivor", others: "list[Other]") -> ConfigError | None:
    """Why there is nothing to recover from, if so."""
    alive = [other for other in others if other.alive]
    if survivor.findings.alone_already or not alive or not survivor.could_lead_with([other.id for other in alive]):
        return None
    answering = ", ".join(sorted(other.name for other in alive))
    return ConfigError(
        f"the majority is not lost: {answering} answered, and with {survivor.owner.name} that is a majority",
        hint=f"start {survivor.owner.name} as always, and the cluster serves again with everything it has; "
        "if what answers is not of this cluster any more, repeat with --force",
    )


def _ask(findings: "Findings") -> None:
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked: standard input is not a terminal", hint="give --yes, or --dry-run")
    answer = click.prompt(f"\nType the name of the member ({findings.name}) to go on", default="", show_default=False)
    if answer != findings.name:
        errors.say("nothing was changed")
        click.get_current_context().exit(ExitCode.FAILED)


def _report_finished(settings: Settings, data_dir: Path) -> None:
    """The last run was cut short behind its decision; what it was to do is done now."""
    from plasmacloud.chainfire.recovery import read_owner

    owner = read_owner(data_dir)
    if settings.output != "table":
        emit(
            {"done": True, "finished_earlier": True, "cluster_id": owner.cluster_id, "member_id": owner.member_id},
            settings.output,
        )
        return
    click.echo(f"A recovery that was cut short is finished: {owner.name} is cluster {owner.cluster_id} now.")


def _show(findings: "Findings", plan: "Plan", others: "list[Other]", dry_run: bool) -> None:
    rows = [
        ("data directory", findings.data_dir),
        ("member", f"{findings.remains}, of cluster {findings.cluster_id}"),
        ("last entry of its log", f"index {findings.last_index}, term {findings.last_term}"),
        ("known to be committed", f"index {findings.commit_index}"),
        ("revision there", f"{findings.revision} at index {findings.applied_index}, the log is applied on top"),
        ("log last written", findings.last_write),
        ("members that vanish", ", ".join(findings.vanish) or "none"),
        *(("asked " + other.name, other.found) for other in others),
        (
            "new cluster",
            f"{plan.cluster.cluster_id:x}, member {plan.name} ({plan.identity.member_id:x}) at {plan.peer}",
        ),
    ]
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        click.echo(f"{label.rjust(width)}  {value}")
    click.echo()
    for line in _warnings(findings):
        errors.say(line, color="yellow")
    if dry_run:
        errors.say("dry run: nothing is changed")


def _warnings(findings: "Findings") -> list[str]:
    """What the operator has to know before deciding."""
    lines = []
    if findings.uncertain_entries:
        lines.append(
            f"{findings.uncertain_entries} entries behind index {findings.commit_index} "
            f"({findings.uncertain_with_writes} with commands) may or may not have been acknowledged; they are kept"
        )
    if findings.torn_bytes:
        lines.append(f"{findings.torn_bytes} bytes at the end of the log are an unfinished write and are dropped")
    if findings.vanish:
        lines.append(
            f"writes behind index {findings.last_index} that the lost members acknowledged without this one are lost; "
            "how many there were cannot be known from here"
        )
    return lines


def _plain(
    findings: "Findings", plan: "Plan", others: "list[Other]", commands: list[str], *, done: bool
) -> dict[str, Any]:
    from plasmacloud.chainfire.recovery import Findings

    return {
        "done": done,
        "found": {name: _value(getattr(findings, name)) for name in Findings.__struct_fields__},
        "warnings": _warnings(findings),
        "others": [
            {"id": f"{other.id:x}", "name": other.name, "alive": other.alive, "found": other.found} for other in others
        ],
        "new_cluster": {
            "cluster_id": f"{plan.cluster.cluster_id:x}",
            "member_id": f"{plan.identity.member_id:x}",
            "name": plan.name,
            "peer": plan.peer,
            "cluster_token": plan.token,
        },
        "commands": commands,
    }


def _value(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
