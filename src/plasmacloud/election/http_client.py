"""One HTTP request with one deadline over everything: connecting, TLS, sending, and reading the whole answer.

Servers ask each other who leads, hooks call URLs, and `plasma ha` talks to several servers at once. None of them may
ever hang, and all of them can be cancelled. One connection a request: these are rare.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
import msgspec

from plasmacloud.base.errors import ConfigError, ExitCode, PlasmaError

MAX_ANSWER_BYTES = 64 << 20
_CHUNK_BYTES = 65_536
_EXAMPLE = "for example http://127.0.0.1:8997"


class HttpFailed(PlasmaError):
    """There is no answer. ``sent``: the request may have reached the server, and may have been executed."""

    exit_code = ExitCode.UNAVAILABLE

    def __init__(self, message: str, *, sent: bool, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.sent = sent


class Answer(NamedTuple):
    """Status code, header names in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The decoded body. Raises `HttpFailed` when it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError as error:
            raise HttpFailed(f"the answer (status {self.status}) is not JSON: {error}", sent=True) from None


class Url(NamedTuple):
    """An absolute http or https URL, taken apart."""

    text: str
    secure: bool
    host: str
    port: int
    target: str
    netloc: str


def parse_url(text: str, *, what: str = "URL") -> Url:
    """Read ``http://host:port/path``; ``host:port`` alone means http. Raises `ConfigError` naming ``what``."""
    full = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{what} {text!r} cannot be read: {error}", hint="for example http://127.0.0.1:8997"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{what} {text!r} is not an http or https URL", hint=_EXAMPLE)
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{what} has a user name in it", hint="servers take a bearer token: --token-file")
    secure = parts.scheme == "https"
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return Url(full, secure, parts.hostname, port or (443 if secure else 80), target or "/", parts.netloc)


def client_tls(*, ca: Path | None = None, cert: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """Whom to trust, and who we are. Raises `ConfigError` for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=str(ca) if ca else None)
        if cert is not None:
            context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use the TLS files: {error}") from None
    return context


async def fetch(
    method: str,
    url: Url,
    *,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request and return the answer, whatever its status. Raises `HttpFailed`."""
    progress = _Progress()
    try:
        async with asyncio.timeout(timeout_s):
            return await _exchange(progress, method, url, body, headers or {}, tls)
    except TimeoutError:
        what = "no answer" if progress.sent else "no connection"
        raise HttpFailed(f"{url.netloc}: {what} within {timeout_s:g} s", sent=progress.sent) from None
    except ssl.SSLCertVerificationError as error:
        raise HttpFailed(
            f"{url.netloc}: its certificate is not trusted: {error.verify_message}", sent=False, hint="--ca FILE"
        ) from None
    except OSError as error:
        raise HttpFailed(f"{url.netloc}: {_reason(error)}", sent=progress.sent) from None
    except h11.RemoteProtocolError as error:
        raise HttpFailed(f"{url.netloc}: does not speak HTTP: {error}", sent=progress.sent) from None
    except asyncio.IncompleteReadError:
        raise HttpFailed(f"{url.netloc}: the connection ended before the answer", sent=progress.sent) from None


class _Progress:
    sent = False


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or str(error) or type(error).__name__


async def _exchange(
    progress: _Progress,
    method: str,
    url: Url,
    body: bytes | None,
    headers: dict[str, str],
    tls: ssl.SSLContext | None,
) -> Answer:
    context = (tls or client_tls()) if url.secure else None
    reader, writer = await asyncio.open_connection(url.host, url.port, ssl=context)
    try:
        connection = h11.Connection(h11.CLIENT)
        fields = {"host": url.netloc, "accept": "application/json", "connection": "close", **headers}
        if body is not None:
            fields = {"content-type": "application/json", "content-length": str(len(body)), **fields}
        request = connection.send(h11.Request(method=method, target=url.target, headers=list(fields.items())))
        assert request is not None
        payload = (connection.send(h11.Data(data=body)) or b"") if body else b""
        ending = connection.send(h11.EndOfMessage()) or b""
        progress.sent = True
        writer.write(request + payload + ending)
        await writer.drain()
        return await _read(connection, reader)
    finally:
        writer.transport.abort()


async def _read(connection: h11.Connection, reader: asyncio.StreamReader) -> Answer:
    status, headers, chunks, size_bytes = 0, {}, [], 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            data = await reader.read(_CHUNK_BYTES)
            if not data and connection.their_state is h11.SEND_RESPONSE:
                raise asyncio.IncompleteReadError(b"", None)
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in event.headers}
        elif isinstance(event, h11.Data):
            size_bytes += len(event.data)
            if size_bytes > MAX_ANSWER_BYTES:
                raise h11.RemoteProtocolError(f"more than {MAX_ANSWER_BYTES} bytes")
            chunks.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return Answer(status, headers, b"".join(chunks))
