"""`plasma lab check-history`: judge a recorded history, the lab's own or a published one, for linearizability."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plasmacloud.base.errors import ExitCode
from plasmacloud.cli.lazy import examples

if TYPE_CHECKING:
    from plasmacloud.verify.models import Model
    from plasmacloud.verify.operations import Operation

MODEL_NAMES = ("register", "versioned", "counter", "list", "set", "text")


@click.command(
    name="check-history",
    epilog=examples(
        "plasma lab check-history etcd_000.log",
        "plasma lab check-history c10-bad.txt --model text --html c10-bad.html",
        "plasma lab check-history plasma-lab/20260101-120000/chainfire/pause/registers.jsonl",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    "model_name",
    type=click.Choice(MODEL_NAMES),
    help="What the object is. [default: versioned for the lab's files, text if anything is appended, else register]",
)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the result as a page, too.")
@click.option("--max-steps", type=click.IntRange(1), help="Bound of the search for each key. [default: 5000000]")
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), help="Bound of the whole search, in seconds.")
@click.pass_context
def check_history(
    ctx: click.Context,
    file: Path,
    model_name: str | None,
    html: Path | None,
    max_steps: int | None,
    time_limit: float | None,
) -> None:
    """Say whether the history in FILE is linearizable.

    FILE is a registers.jsonl of the lab's evidence, a Jepsen log, or a file of EDN operations. Exit status 0 if it is
    linearizable, 1 if it is not, 4 if the search was given up before it knew.
    """
    from plasmacloud.verify.counterexample import text
    from plasmacloud.verify.linearizability import MAX_STEPS, check
    from plasmacloud.verify.linearizability_html import page
    from plasmacloud.verify.search import Answer

    history, model = _load(file, model_name)
    began = time.monotonic()
    result = check(history, model, max_steps=max_steps or MAX_STEPS, time_limit=time_limit, clock=time.monotonic)
    spent = time.monotonic() - began
    for example in result.violations():
        click.echo(text(example))
    for part in result.parts:
        if part.answer is Answer.UNKNOWN:
            click.echo(f"{part.key or file.name}: unknown, given up after {part.reason}")
    opened = sum(not op.known for op in history)
    click.echo(
        f"{result.answer.value}: {result.operations} operations ({opened} of unknown outcome) on {len(result.parts)} "
        f"keys, model {model.name}, {result.steps} steps, {spent:.2f} s"
    )
    if html is not None:
        html.write_text(page(result, file.name), encoding="utf-8")
    codes = {Answer.OK: ExitCode.OK, Answer.VIOLATION: ExitCode.FAILED, Answer.UNKNOWN: ExitCode.OUTCOME_UNKNOWN}
    ctx.exit(codes[result.answer])


def _load(file: Path, model_name: str | None) -> "tuple[list[Operation], Model]":
    from plasmacloud.verify.files import decode_lines
    from plasmacloud.verify.foreign_histories import read_history
    from plasmacloud.verify.models import MODELS
    from plasmacloud.verify.registers import RegisterOp, operations

    data = file.read_bytes()
    if file.suffix == ".jsonl":
        model = MODELS[model_name or "versioned"]()
        return operations(decode_lines(data, RegisterOp, source=file.name)), model
    lines = data.decode(errors="replace").splitlines()
    guess = "text" if any(":append" in line for line in lines) else "register"
    model = MODELS[model_name or guess]()
    return read_history(lines, model), model
