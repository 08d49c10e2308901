"""How a command ends: a message and a hint on standard error, and the exit code that says what is known.

Everything `plasma` raises on purpose passes here once. A bug does not: its traceback is what we want to see.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

import click

from plasmacloud.base.errors import ExitCode, PlasmaError

_color = not os.environ.get("NO_COLOR")


def use_color(wanted: bool) -> None:
    """Whether messages may be coloured; on a terminal only, in any case."""
    global _color
    _color = wanted


def color_wanted() -> bool:
    """As last said by `use_color`."""
    return _color


BROKEN_PIPE = 128 + 13
"""Exit code when the reader of standard output went away; what a shell reports for a process ended by SIGPIPE."""


class ReaderGoneError(Exception):
    """Nobody reads standard output any more. Click has its own idea of that, so it is named before click sees it."""


def run(command: Callable[[], Any]) -> int:
    """Run a command line to its end; return the exit code. ``command`` must not exit by itself."""
    try:
        result = command()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except PlasmaError as error:
        report(error)
        return error.exit_code
    except ReaderGoneError:
        _abandon_stdout()
        return BROKEN_PIPE
    return result if isinstance(result, int) else ExitCode.OK


def report(error: PlasmaError) -> None:
    """Tell the operator what happened and what to do about it."""
    say(f"error: {error}", color="red")
    if error.hint:
        say(f"hint: {error.hint}")


def say(text: str, *, color: str | None = None) -> None:
    """One message to standard error, where everything goes that is not data."""
    click.echo(click.style(text, fg=color) if _color and color else text, err=True)


def _abandon_stdout() -> None:
    """Nobody reads: send what is still buffered nowhere, so that the interpreter can end in peace."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
