"""Command groups that import a command only when it is used, so that `plasma kv get` starts fast.

The one-line summaries of the group's help stand beside the import paths, for the same reason.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command lives (``module:attribute``) and what it does, in a few words."""

    path: str
    summary: str

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]

    def load(self) -> click.Command:
        """Import it."""
        command = getattr(importlib.import_module(self.module), self.path.partition(":")[2])
        assert isinstance(command, click.Command), self.path
        command.short_help = self.summary
        return command


class LazyGroup(click.Group):
    """A click group that knows some of its commands by import path only."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = {
            name: entry for name, entry in (lazy or {}).items() if importlib.util.find_spec(entry.module) is not None
        }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order they were given: the order in which to read about them."""
        return [*self.commands, *(name for name in self.lazy if name not in self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported if need be."""
        if cmd_name not in self.commands and cmd_name in self.lazy:
            self.add_command(self.lazy[cmd_name].load(), cmd_name)
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in the help, without importing any."""
        rows = [(name, self._summary(name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def _summary(self, name: str) -> str:
        if name in self.lazy:
            return self.lazy[name].summary
        return self.commands[name].get_short_help_str(100)


def examples(*lines: str) -> str:
    """An epilog with examples, kept line by line."""
    return "\n".join(("\b", "Examples:", *(f"  {line}" for line in lines)))
