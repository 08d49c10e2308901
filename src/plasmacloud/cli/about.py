"""`plasma version` and `plasma completion`."""

import os
import platform
from importlib import metadata

import click

from plasmacloud.cli.lazy import examples
from plasmacloud.cli.output import emit
from plasmacloud.cli.settings import Settings, cluster_command


@click.command(epilog=examples("plasma version", "plasma version -o json"))
@cluster_command
def version(settings: Settings) -> None:
    """Print the version of PlasmaCloud and of the Python it runs on, and whether there are compiled modules for it."""
    from plasmacloud.base.compiled import will_compiled_be_used

    number, python = metadata.version("plasmacloud"), platform.python_version()
    modules = "compiled" if will_compiled_be_used(os.environ) else "python"
    if settings.output == "table":
        click.echo(f"plasma {number} (Python {python}, modules of nodes: {modules})")
    else:
        emit({"version": number, "python": python, "modules": modules}, settings.output)


@click.command(
    epilog=examples(
        'eval "$(plasma completion bash)"                                   # this shell',
        "plasma completion zsh > ~/.zfunc/_plasma                           # every zsh",
        "plasma completion fish > ~/.config/fish/completions/plasma.fish    # every fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that makes the shell complete commands and flags."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, shell
    click.echo(kind(ctx.find_root().command, {}, "plasma", "_PLASMA_COMPLETE").source())
