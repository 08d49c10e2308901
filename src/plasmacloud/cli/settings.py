"""What every command that talks to a cluster needs to know, and the three places it can come from.

A flag wins over its environment variable, which wins over the configuration file. The name is the same in all three:
``--data-dir`` of `plasma up` is ``PLASMA_UP_DATA_DIR`` and ``data-dir`` under ``[up]``. The shared flags may stand
behind any command as well as behind `plasma`.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.units import parse_duration, parse_size
from plasmacloud.cli import errors

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from plasmacloud.base.tls import TlsFiles
    from plasmacloud.client import Client

DEFAULT_ENDPOINTS = "127.0.0.1:2379"
_FILE = click.Path(dir_okay=False, path_type=Path)
FORMATS = ("table", "json", "yaml")

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Settings:
    """The shared settings of one invocation. ``timeout_s``: seconds for each request."""

    def __init__(self, *, endpoints: str, timeout_s: float, output: str, tls: "TlsFiles | None" = None) -> None:
        self.endpoints = endpoints
        self.tls = tls
        self.timeout_s = timeout_s
        self.output = output

    def with_changes(
        self, *, endpoints: str | None, timeout: float | None, output: str | None, no_color: bool
    ) -> "Settings":
        """These settings with what was said behind the command."""
        if no_color:
            errors.use_color(False)
        return Settings(
            endpoints=endpoints or self.endpoints,
            timeout_s=self.timeout_s if timeout is None else timeout,
            output=output or self.output,
            tls=self.tls,
        )

    @property
    def endpoint_list(self) -> tuple[str, ...]:
        """The endpoints, one by one."""
        return tuple(text.strip() for text in self.endpoints.split(",") if text.strip())

    def run(self, work: "Callable[[Client], Awaitable[T]]") -> T:
        """Run something with a client of the cluster. Raises what it raises."""
        import asyncio

        from plasmacloud.base.tls import ClientTls
        from plasmacloud.client import Client

        tls = None if self.tls is None else ClientTls(self.tls)

        async def main() -> T:
            async with Client(self.endpoint_list, timeout=self.timeout_s, tls=tls) as client:
                return await work(client)

        return asyncio.run(main())


class Duration(click.ParamType[float]):
    """A time with its unit, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; refuses zero."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(str(value))
        except ConfigError as error:
            self.fail(f"{error}: {error.hint}", param, ctx)
        if seconds <= 0:
            self.fail(f"{value!r} is not longer than zero", param, ctx)
        return seconds


class Size(click.ParamType[int]):
    """A size with its unit, in bytes; ``0`` needs none."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        if str(value).strip() == "0":
            return 0
        try:
            return parse_size(str(value))
        except ConfigError as error:
            self.fail(f"{error}: {error.hint}", param, ctx)


def root_options(command: Command) -> Command:
    """The shared options, as `plasma` itself takes them."""
    options = (
        click.option(
            "--endpoints",
            metavar="HOST:PORT,…",
            default=DEFAULT_ENDPOINTS,
            show_default=True,
            show_envvar=True,
            help="Members of the cluster to talk to.",
        ),
        click.option(
            "--timeout",
            type=Duration(),
            metavar="TIME",
            default="5s",
            show_default=True,
            show_envvar=True,
            help="Time for each request, over all attempts.",
        ),
        click.option(
            "-o",
            "--output",
            type=click.Choice(FORMATS),
            default="table",
            show_default=True,
            show_envvar=True,
            help="Form of what goes to standard output.",
        ),
        *(
            click.option(f"--{name}", type=_FILE, metavar="FILE", show_envvar=True, help=text)
            for name, text in (
                ("cacert", "TLS: the authority (ca.crt) that servers must have a certificate of."),
                ("cert", "TLS: this client's certificate."),
                ("key", "TLS: the key of --cert."),
            )
        ),
        click.option("--no-color", is_flag=True, show_envvar=True, help="Plain text; also when NO_COLOR is set."),
        click.option(
            "--config",
            type=click.Path(dir_okay=False, path_type=Path),
            is_eager=True,
            expose_value=False,
            show_envvar=True,
            callback=_read_config,
            help="TOML file with settings; its keys are named as the flags.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def make_settings(
    *,
    endpoints: str,
    timeout: float,
    output: str,
    no_color: bool,
    cacert: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> Settings:
    """From the root's options."""
    tls = None
    if cacert or cert or key:
        from plasmacloud.base.tls import TlsFiles

        tls = TlsFiles(cert, key, cacert)
    errors.use_color(not (no_color or os.environ.get("NO_COLOR")))
    return Settings(endpoints=endpoints, timeout_s=timeout, output=output, tls=tls)


def cluster_command(command: Command) -> Command:
    """Give a command ``settings`` as its first argument, and the shared options again behind its own."""

    @functools.wraps(command)
    def with_settings(
        *args: Any,
        endpoints: str | None,
        timeout: float | None,
        output: str | None,
        no_color: bool,
        **kwargs: Any,
    ) -> Any:
        root = click.get_current_context().find_object(Settings)
        assert root is not None, "the root command makes the settings"
        settings = root.with_changes(endpoints=endpoints, timeout=timeout, output=output, no_color=no_color)
        return command(settings, *args, **kwargs)

    shared: dict[str, Any] = {"allow_from_autoenv": False, "default": None}
    options = (
        click.option("--endpoints", metavar="HOST:PORT,…", help="Members of the cluster to talk to.", **shared),
        click.option("--timeout", type=Duration(), metavar="TIME", help="Time for each request.", **shared),
        click.option("-o", "--output", type=click.Choice(FORMATS), help="Form of the output.", **shared),
        click.option("--no-color", is_flag=True, allow_from_autoenv=False, hidden=True),
    )
    wrapped: Any = with_settings
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    """Load the file into click's defaults. Raises `ConfigError` for a file that cannot be used as it is."""
    if path is None or ctx.resilient_parsing:
        return
    import tomllib

    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"configuration file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path}: {error}") from error
    assert isinstance(ctx.command, click.Group)
    ctx.default_map = _defaults(ctx.command, values, ctx, f"configuration file {path}", ())


def _defaults(
    command: click.Command, values: dict[str, Any], ctx: click.Context, file: str, section: tuple[str, ...]
) -> dict[str, Any]:
    """Values by parameter name, checked against the flags that exist. Imports only commands the file names."""
    flags = {
        name.removeprefix("--"): option
        for option in command.params
        if isinstance(option, click.Option)
        for name in option.opts
        if name.startswith("--")
    }
    place = f"{file}, [{'.'.join(section)}]" if section else file
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            child = command.get_command(ctx, key) if isinstance(command, click.Group) else None
            if child is None:
                raise ConfigError(f"{place}: there is no command {key!r}")
            defaults[key] = _defaults(child, value, ctx, file, (*section, key))
        elif key not in flags or key == "config":
            known = ", ".join(sorted(set(flags) - {"config", "help"}))
            raise ConfigError(f"{place}: there is no flag --{key}", hint=f"known here: {known}" if known else None)
        else:
            option = flags[key]
            assert option.name is not None
            many = isinstance(value, list) and not option.multiple
            defaults[option.name] = ",".join(map(str, value)) if many else value
    return defaults
