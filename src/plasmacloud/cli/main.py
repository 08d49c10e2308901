"""`plasma`: the root command. It knows where its subcommands live and imports only the one that is used."""

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from plasmacloud.cli import errors
from plasmacloud.cli.lazy import Lazy, LazyGroup, examples
from plasmacloud.cli.settings import make_settings, root_options


class PlasmaGroup(LazyGroup):
    """The root: every command ends here."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and notice when nobody reads what it printed."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise errors.ReaderGoneError from error
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Parse, run, exit with one of our codes."""

        def command() -> Any:
            return super(PlasmaGroup, self).main(
                args,
                prog_name or "plasma",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                **extra,
            )

        sys.exit(errors.run(command))


@click.group(
    cls=PlasmaGroup,
    lazy={
        "up": Lazy("plasmacloud.cli.up:up", "Start a three-node cluster on this machine."),
        "kv": Lazy("plasmacloud.cli.kv:kv", "Read and write keys."),
        "chainfire": Lazy("plasmacloud.cli.chainfire:chainfire", "Run and look after the key-value store."),
        "election": Lazy("plasmacloud.cli.election:election", "Run a leader election server."),
        "ha": Lazy("plasmacloud.cli.ha:ha", "Look after leader election: status, failover, split brain, backup."),
        "lab": Lazy("plasmacloud.cli.lab:lab", "Prove high availability: break clusters and measure."),
        "pki": Lazy("plasmacloud.cli.pki:pki", "Certificates for members and clients."),
        "sim": Lazy("plasmacloud.cli.sim:sim", "Run simulated clusters and look for broken promises."),
        "completion": Lazy("plasmacloud.cli.about:completion", "Print a shell completion script."),
        "version": Lazy("plasmacloud.cli.about:version", "Print the version."),
    },
    context_settings={"auto_envvar_prefix": "PLASMA", "help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "plasma up                                  # a cluster of three on this machine",
        "plasma kv put greeting hello",
        "plasma kv get greeting",
        "plasma chainfire status -o json",
        "plasma --endpoints 10.0.0.1:2379,10.0.0.2:2379 kv get --prefix /config/",
    ),
)
@root_options
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """A private cloud that proves its own high availability.

    Every flag can also be an environment variable (--limit of `plasma kv get` is PLASMA_KV_GET_LIMIT) or a key of the
    configuration file (limit under [kv.get]). Data goes to standard output, messages to standard error.

    \b
    Exit codes:
      0  done                           4  it may or may not have been executed
      1  the answer is no               5  no endpoint answers, or no quorum
      2  wrong flags or arguments       6  configuration or data directory refused
      3  failed, changed nothing        7  storage failed
    """
    ctx.obj = make_settings(**options)


def main() -> NoReturn:
    """The console entry point."""
    cli.main(prog_name="plasma")
