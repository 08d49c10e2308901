"""`plasma ha`: who leads, whether the database can be trusted, and what an operator can do about it."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.cli import errors
from plasmacloud.cli.ha_client import HaSettings, ha_command, ha_options, make_ha_settings
from plasmacloud.cli.lazy import Lazy, LazyGroup, examples
from plasmacloud.cli.output import emit, table
from plasmacloud.cli.settings import Duration, Settings

if TYPE_CHECKING:
    from plasmacloud.election.http_client import Url


@click.group(
    cls=LazyGroup,
    lazy={
        "failover": Lazy("plasmacloud.cli.ha_operator:failover", "Hand leadership over."),
        "split-brain": Lazy("plasmacloud.cli.ha_operator:split_brain", "Detect and end contradictions."),
        "backup": Lazy("plasmacloud.cli.ha_backup:backup", "Save and restore the election's tables."),
    },
    epilog=examples(
        "plasma ha status --server 127.0.0.1:8997 --server 127.0.0.1:8998",
        "plasma ha quorum status -o json",
        "plasma ha failover trigger --operator ann --reason 'kernel update'",
        "plasma ha split-brain detect",
        "plasma ha backup create ha.backup --backend postgres://ha@127.0.0.1/ha",
    ),
)
@ha_options(root=True)
@click.pass_context
def ha(ctx: click.Context, /, **said: Any) -> None:
    """Look after leader election.

    \b
    Exit codes:
      0  healthy, or done              4  it may or may not have been executed
      1  degraded, or detected         5  lost, or no server answers
      2  wrong flags or arguments      6  configuration refused
      3  refused, changed nothing      7  a backup is damaged
    """
    root = ctx.find_object(Settings)
    assert root is not None, "the root command makes the settings"
    ctx.obj = make_ha_settings(root, said)


_CLEAR = "\x1b[2J\x1b[H"
_STATUS_HEADER = ["NODE", "ROLE", "LEADER", "EPOCH", "SINCE", "QUORUM", "WRITES", "SERVER"]


@ha.command(
    epilog=examples(
        "plasma ha status",
        "plasma ha status --server n1:8997 --server n2:8997 --watch",
        "plasma ha status -o json | jq -r '.[] | select(.role == \"leader\") | .node_id'",
    )
)
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--interval", type=Duration(), default="1s", show_default=True, help="With --watch: time between looks.")
@ha_command
def status(settings: HaSettings, watch: bool, interval: float) -> None:
    """Show what each server says of itself.

    Exit code 0: all answer, one leads, the quorum is healthy. 1: one of that does not hold. 5: no server answers, or
    the quorum is lost.
    """
    _repeat(lambda: _show_status(settings), watch, interval, settings)


def _show_status(settings: HaSettings) -> int:
    rows = settings.run(lambda client: client.ask_all("/v1/ha/status"))
    if settings.output != "table":
        emit([_plain(url, said) for url, said in rows], settings.output)
    else:
        table(_STATUS_HEADER, [_cells(url, said) for url, said in rows])
        for _, said in rows:
            if isinstance(said, PlasmaError):
                errors.say(f"{said}", color="red")
            elif said.get("held"):
                errors.say(f"elections are held off {said['held']}", color="yellow")
    return _judge([said for _, said in rows])


def _judge(answers: list[Any]) -> int:
    """The exit code for what all servers said."""
    answered = [said for said in answers if isinstance(said, dict)]
    if not answered or all(said["quorum_health"] == "lost" for said in answered):
        return ExitCode.UNAVAILABLE
    leaders = {said["leader_id"] for said in answered}
    one = len(leaders) == 1 and leaders != {""} and sum(said["role"] == "leader" for said in answered) <= 1
    healthy = all(said["quorum_health"] == "healthy" for said in answered)
    return ExitCode.OK if one and healthy and len(answered) == len(answers) else ExitCode.FAILED


def _plain(url: "Url", said: Any) -> dict[str, Any]:
    if isinstance(said, PlasmaError):
        return {"server": url.text, "ok": False, "error": str(said)}
    return {"server": url.text, "ok": True, **said}


def _cells(url: "Url", said: Any) -> list[object]:
    if isinstance(said, PlasmaError):
        return ["-", "no answer", *["-"] * (len(_STATUS_HEADER) - 3), url.netloc]
    return [
        said["node_id"],
        said["role"],
        said["leader_id"] or "-",
        said["epoch"] or "-",
        (said["since"] or "-").partition(".")[0].replace("T", " "),
        said["quorum_health"],
        "yes" if said["write_ready"] else "no",
        url.netloc,
    ]


def _repeat(show: Callable[[], int], watch: bool, interval_s: float, settings: HaSettings) -> None:
    """Once, or until interrupted; ends with the exit code of what was seen last."""
    code = show()
    while watch:
        time.sleep(interval_s)
        if settings.output == "table" and sys.stdout.isatty():
            click.echo(_CLEAR, nl=False)
        code = show()
    click.get_current_context().exit(code)


@click.group(epilog=examples("plasma ha quorum status"))
def quorum() -> None:
    """Whether the database can be trusted with a write."""


ha.add_command(quorum)


@quorum.command("status", epilog=examples("plasma ha quorum status", "plasma ha quorum status -o json | jq .reasons"))
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--interval", type=Duration(), default="1s", show_default=True, help="With --watch: time between looks.")
@ha_command
def quorum_status(settings: HaSettings, watch: bool, interval: float) -> None:
    """Show health, replicas and the last changes, as the first server that answers sees them.

    Exit code 0: healthy. 1: degraded. 5: lost, or no server answers.
    """
    _repeat(lambda: _show_quorum(settings), watch, interval, settings)


def _show_quorum(settings: HaSettings) -> int:
    said = settings.run(lambda client: client.ask_any("/v1/ha/quorum"))
    if settings.output != "table":
        emit(said, settings.output)
    else:
        _print_quorum(said)
    codes = {"healthy": ExitCode.OK, "degraded": ExitCode.FAILED}
    return codes.get(said["quorum_health"], ExitCode.UNAVAILABLE)


def _print_quorum(said: dict[str, Any]) -> None:
    click.echo(f"quorum: {said['quorum_health']}, writes: {'yes' if said['write_ready'] else 'no'}, ", nl=False)
    click.echo(f"synchronous replicas: {said['sync_replicas']} of {said['min_sync_replicas']} required")
    for reason in said["reasons"]:
        errors.say(f"  {reason}", color="yellow")
    if said["replicas"]:
        click.echo()
        table(
            ["REPLICA", "STATE", "SYNC", "LAG BYTES", "LAG MS"],
            [
                [
                    r["name"],
                    r["state"] or "-",
                    r["sync_state"] or "-",
                    "-" if r["lag_bytes"] is None else r["lag_bytes"],
                    "-" if r["lag_ms"] is None else round(r["lag_ms"]),
                ]
                for r in said["replicas"]
            ],
        )
    if said["transitions"]:
        click.echo()
        table(["AT", "FROM", "TO", "REASON"], [[t["at"], t["from"], t["to"], t["reason"]] for t in said["transitions"]])
