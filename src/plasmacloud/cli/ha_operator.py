"""`plasma ha failover …` and `plasma ha split-brain …`: what an operator orders, under a name and with a reason."""

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.cli import errors
from plasmacloud.cli.ha_client import HaClient, HaSettings, Refused, ha_command
from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit

if TYPE_CHECKING:
    from plasmacloud.election.http_client import Url

Command = TypeVar("Command", bound=Callable[..., Any])

ORDER_S = 15.0
"""How long an order may take: a failover waits for its new leader."""
LOOK_S = 10.0


def operator_options(command: Command) -> Command:
    """--operator and --reason, which every order needs."""
    for option in (
        click.option("--reason", required=True, help="Why; others read it in the audit."),
        click.option("--operator", required=True, metavar="NAME", help="Whose decision this is."),
    ):
        command = option(command)
    return command


@click.group(epilog=examples("plasma ha failover trigger --operator ann --reason 'kernel update'"))
def failover() -> None:
    """Hand leadership over."""


@failover.command(
    epilog=examples(
        "plasma ha failover trigger --operator ann --reason 'kernel update'",
        "plasma ha failover trigger --server n1:8997 --server n2:8997 --operator ann --reason drill -o json",
    )
)
@operator_options
@click.option("--force", is_flag=True, help="Although a replica lags, or nobody is known to take over.")
@ha_command
def trigger(settings: HaSettings, operator: str, reason: str, force: bool) -> None:
    """Make the leader resign, and wait for the next one.

    The order goes to the leader among the servers given. Exit code 0: another node leads. 3: refused, the old leader
    stays. 4: it resigned, and nobody is known to lead yet. 5: no server answers.
    """
    body = {"operator": operator, "reason": reason, "force": force}
    said = settings.run(lambda client: _to_leader(client, "/v1/ha/failover", body))
    if settings.output != "table":
        emit(said, settings.output)
        return
    click.echo(
        f"{said['old_leader']} (epoch {said['old_epoch']}) -> {said['new_leader']} (epoch {said['new_epoch']}) "
        f"in {said['took_ms']:.1f} ms"
    )


async def _to_leader(client: HaClient, path: str, body: dict[str, Any]) -> Any:
    """Send an order to the server that leads; to the one it names if it has lost leadership meanwhile."""
    answers = await client.ask_all("/v1/ha/status")
    leaders = [url for url, said in answers if isinstance(said, dict) and said["role"] == "leader"]
    alive = [url for url, said in answers if isinstance(said, dict)]
    if not alive:
        raise next(said for _, said in answers if isinstance(said, PlasmaError))
    headers = {"idempotency-key": secrets.token_hex(16)}
    try:
        return await client.call((leaders or alive)[0], "POST", path, body, headers=headers, timeout_s=ORDER_S)
    except Refused as refusal:
        again = await _find(client, refusal.document.get("leader")) if refusal.kind == "not-leader" else None
        if again is not None:
            return await client.call(again, "POST", path, body, headers=headers, timeout_s=ORDER_S)
        named = refusal.document.get("leader_url")
        if named and not refusal.hint:
            refusal.hint = f"give its server too: --server {named}"
        raise


async def _find(client: HaClient, node_id: Any) -> "Url | None":
    """The server of that node, if it is one of those the operator named: a token goes nowhere else."""
    for url, said in await client.ask_all("/v1/ha/status"):
        if node_id and isinstance(said, dict) and said["node_id"] == node_id:
            return url
    return None


@click.group("split-brain", epilog=examples("plasma ha split-brain detect"))
def split_brain() -> None:
    """Detect and end contradictions about who leads."""


@split_brain.command(
    epilog=examples("plasma ha split-brain detect", "plasma ha split-brain detect -o json | jq .findings")
)
@ha_command
def detect(settings: HaSettings) -> None:
    """Look at all servers and database hosts for contradictions that last.

    Exit code 0: none. 1: split brain. 5: no server answers.
    """
    said = settings.run(lambda client: client.ask_any("/v1/ha/split-brain", timeout_s=LOOK_S))
    if settings.output != "table":
        emit(said, settings.output)
    else:
        click.echo("split brain detected" if said["detected"] else "no split brain")
        _print_findings(said["findings"])
    for text in said["unseen"]:
        errors.say(f"could not be looked at: {text}", color="yellow")
    if said["held"]:
        errors.say(f"elections are held off {said['held']}", color="yellow")
    if said["detected"]:
        click.get_current_context().exit(ExitCode.FAILED)


def _print_findings(findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        click.echo(f"{finding['kind']}: {finding['summary']}")
        for name, value in finding["evidence"].items():
            click.echo(f"  {name}: {'-' if value is None else value}")


@split_brain.command(
    epilog=examples(
        "plasma ha split-brain recover --strategy promote-leader --operator ann --reason 'n1 came back'",
        "plasma ha split-brain recover --strategy manual-reconcile --operator ann --reason 'two primaries'",
    )
)
@click.option(
    "--strategy",
    required=True,
    type=click.Choice(["promote-leader", "manual-reconcile"]),
    help="Keep the rightful leader; or fence everybody until released.",
)
@operator_options
@click.option("--force", is_flag=True, help="Although none was detected.")
@ha_command
def recover(settings: HaSettings, strategy: str, operator: str, reason: str, force: bool) -> None:
    """End a split brain.

    promote-leader: the holder of the newest epoch that holds the lock stays, all others are cut off; without such a
    holder the epoch is raised and a new election follows. manual-reconcile: the epoch is raised on every primary and
    nobody is elected until `plasma ha split-brain release`.

    Exit code 0: done. 3: refused, nothing changed. 4: it may or may not have been done. 5: no server answers.
    """
    _order(settings, {"strategy": strategy, "operator": operator, "reason": reason, "force": force})


@split_brain.command(
    epilog=examples("plasma ha split-brain release --operator ann --reason 'n1 is rewound, data compared'")
)
@operator_options
@ha_command
def release(settings: HaSettings, operator: str, reason: str) -> None:
    """End what `recover --strategy manual-reconcile` began: elections go on. Exit codes as for recover."""
    _order(settings, {"strategy": "release", "operator": operator, "reason": reason})


def _order(settings: HaSettings, body: dict[str, Any]) -> None:
    said = settings.run(lambda client: _to_any(client, body))
    if settings.output != "table":
        emit(said, settings.output)
        return
    for action in said["actions"]:
        click.echo(action)
    _print_findings(said["findings"])
    if said["leader_id"]:
        click.echo(f"{said['leader_id']} leads with epoch {said['epoch']}")
    else:
        errors.say("nobody leads", color="yellow")


async def _to_any(client: HaClient, body: dict[str, Any]) -> Any:
    """Send an order to the first server that takes it; to the next only if the first was never reached."""
    problem: PlasmaError | None = None
    headers = {"idempotency-key": secrets.token_hex(16)}
    for url in client.urls:
        try:
            path = "/v1/ha/split-brain/recover"
            return await client.call(url, "POST", path, body, headers=headers, timeout_s=ORDER_S)
        except PlasmaError as error:
            problem = error
            if error.exit_code is not ExitCode.UNAVAILABLE:
                break
    assert problem is not None, "there is always a server"
    raise problem
