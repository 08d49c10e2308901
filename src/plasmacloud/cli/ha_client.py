"""Talking to election servers from the command line: which, as whom, and what their refusals mean for the exit code."""

import asyncio
import functools
import ssl
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plasmacloud.base.errors import ExitCode, PlasmaError
from plasmacloud.cli import errors
from plasmacloud.cli.settings import FORMATS, Duration, Settings

if TYPE_CHECKING:
    from plasmacloud.election.http_client import Url

DEFAULT_SERVER = "http://127.0.0.1:8997"
FILE = click.Path(dir_okay=False, path_type=Path)
_PROBLEM = "urn:plasma:problem:"

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Refused(PlasmaError):
    """A server said no. ``kind``: the last part of the problem's type; ``document``: all that it said."""

    def __init__(self, where: str, status: int, document: Mapping[str, Any]) -> None:
        self.kind = str(document.get("type", "")).removeprefix(_PROBLEM)
        self.document = document
        said = document.get("detail") or document.get("title") or f"status {status}"
        super().__init__(f"{where}: {said}", hint=document.get("hint"))
        unknown = document.get("outcome") == "unknown" or not self.kind
        self.exit_code = ExitCode.OUTCOME_UNKNOWN if unknown else ExitCode.NOT_EXECUTED


class Unanswered(PlasmaError):
    """No answer; and if the request was sent and changes something, nobody knows whether it was executed."""

    def __init__(self, message: str, *, unknown: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = ExitCode.OUTCOME_UNKNOWN if unknown else ExitCode.UNAVAILABLE


class HaSettings:
    """The shared settings of `plasma ha`. ``timeout_s``: seconds for each request."""

    def __init__(
        self,
        *,
        servers: tuple[str, ...],
        token_file: Path | None,
        ca: Path | None,
        cert: Path | None,
        key: Path | None,
        output: str,
        timeout_s: float,
    ) -> None:
        self.servers = servers
        self.token_file = token_file
        self.ca = ca
        self.cert = cert
        self.key = key
        self.output = output
        self.timeout_s = timeout_s

    def overridden(self, said: Mapping[str, Any]) -> "HaSettings":
        """These settings with what was said behind the command."""
        return HaSettings(
            servers=said["server"] or self.servers,
            token_file=said["token_file"] or self.token_file,
            ca=said["ca"] or self.ca,
            cert=said["cert"] or self.cert,
            key=said["key"] or self.key,
            output=said["output"] or self.output,
            timeout_s=self.timeout_s if said["timeout"] is None else said["timeout"],
        )

    def client(self) -> "HaClient":
        """Ready to ask. Raises `ConfigError`."""
        return HaClient(self)

    def run(self, work: Callable[["HaClient"], Coroutine[Any, Any, T]]) -> T:
        """Run something with a client of the servers. Raises what it raises."""
        client = self.client()
        return asyncio.run(work(client))


class HaClient:
    """Asks election servers."""

    def __init__(self, settings: HaSettings) -> None:
        from plasmacloud.election.http_client import client_tls, parse_url

        texts = [part.strip() for text in settings.servers for part in text.split(",") if part.strip()]
        self.urls = [parse_url(text.rstrip("/"), what="--server") for text in texts or [DEFAULT_SERVER]]
        self._timeout_s = settings.timeout_s
        self._headers = {"authorization": f"Bearer {_token(settings.token_file)}"} if settings.token_file else {}
        self._tls: ssl.SSLContext | None = None
        if any(url.secure for url in self.urls):
            self._tls = client_tls(ca=settings.ca, cert=settings.cert, key=settings.key)

    async def call(
        self,
        url: "Url",
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        """The JSON of the answer. Raises `Refused` or `Unanswered`."""
        import json

        from plasmacloud.election.http_client import HttpFailed, fetch, parse_url

        target = parse_url(url.text + path)
        data = None if body is None else json.dumps(body).encode()
        try:
            answer = await fetch(
                method,
                target,
                body=data,
                headers={**self._headers, **(headers or {})},
                timeout_s=timeout_s or self._timeout_s,
                tls=self._tls,
            )
            said = answer.json()
        except HttpFailed as error:
            unknown = method != "GET" and error.sent
            hint = "it may have been executed: look at `plasma ha status`" if unknown else error.hint
            raise Unanswered(str(error), unknown=unknown, hint=hint) from None
        if answer.status >= 400:
            raise Refused(url.netloc, answer.status, said if isinstance(said, dict) else {})
        return said

    async def ask_all(self, path: str) -> list[tuple["Url", Any]]:
        """What every server says to a GET, in the order of --server: JSON, or the error."""

        async def ask(url: "Url") -> Any:
            try:
                return await self.call(url, "GET", path)
            except PlasmaError as error:
                return error

        answers = await asyncio.gather(*map(ask, self.urls))
        return list(zip(self.urls, answers, strict=True))

    async def ask_any(self, path: str, *, timeout_s: float | None = None) -> Any:
        """What the first server that answers says to a GET. Raises the last error when none does."""
        problem: PlasmaError | None = None
        for url in self.urls:
            try:
                return await self.call(url, "GET", path, timeout_s=timeout_s)
            except PlasmaError as error:
                problem = error
        assert problem is not None, "there is always a server"
        raise problem


def _token(path: Path) -> str:
    from plasmacloud.election.token_file import read_token

    return read_token(path)


def ha_options(*, root: bool) -> Callable[[Command], Command]:
    """The shared options: ``root``: as `plasma ha` itself takes them, with environment and defaults."""
    kind: dict[str, Any] = {"show_envvar": True} if root else {"allow_from_autoenv": False}
    options = (
        click.option(
            "--server",
            multiple=True,
            metavar="URL",
            help=f"Election server to ask; may be repeated. [default: {DEFAULT_SERVER}]",
            **kind,
        ),
        click.option("--token-file", type=FILE, help="File with the bearer token.", **kind),
        click.option("--ca", type=FILE, help="Authority that signed the servers' certificates.", **kind),
        click.option("--cert", type=FILE, help="Client certificate (PEM).", **kind),
        click.option("--key", type=FILE, help="Key of --cert.", **kind),
        click.option("--timeout", type=Duration(), metavar="TIME", help="Time for each request.", **kind),
        click.option("-o", "--output", type=click.Choice(FORMATS), help="Form of the output.", **kind),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def ha_command(command: Command) -> Command:
    """Give a command `HaSettings` as its first argument, and the shared options again behind its own."""

    @functools.wraps(command)
    def with_settings(*args: Any, no_color: bool, **kwargs: Any) -> Any:
        if no_color:
            errors.use_color(False)
        shared = click.get_current_context().find_object(HaSettings)
        assert shared is not None, "the group makes the settings"
        names = ("server", "token_file", "ca", "cert", "key", "timeout", "output")
        settings = shared.overridden({name: kwargs.pop(name) for name in names})
        return command(settings, *args, **kwargs)

    wrapped: Any = ha_options(root=False)(with_settings)
    return click.option("--no-color", is_flag=True, allow_from_autoenv=False, hidden=True)(wrapped)  # type: ignore[no-any-return]


def make_ha_settings(root: Settings, said: Mapping[str, Any]) -> HaSettings:
    """From the options of `plasma` and of `plasma ha`."""
    return HaSettings(
        servers=said["server"],
        token_file=said["token_file"],
        ca=said["ca"],
        cert=said["cert"],
        key=said["key"],
        output=said["output"] or root.output,
        timeout_s=root.timeout_s if said["timeout"] is None else said["timeout"],
    )
