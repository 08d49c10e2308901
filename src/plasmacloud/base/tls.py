"""TLS contexts from files, and new files taken over without a restart.

A *server* keeps one context for its listening socket. Before each handshake it looks, at most once a second, whether
the files have changed; if so a second context is made from them and the handshake goes on with that one. Files that do
not fit together (somebody is just replacing them) change nothing: the old certificate stays in use, a warning says so.
A *client* makes its context when it connects, from the files as they are then.

TLS 1.2 is the lowest version; the protocol above is agreed on by ALPN (RFC 7301).
"""

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger

_LOOK_EVERY_S = 1.0

log = get_logger("tls")


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: a certificate (with its chain) and its key, and the authorities whose certificates are believed."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @classmethod
    def of(cls, directory: Path, name: str) -> Self:
        """The files as `plasma pki` lays them out: ``NAME.crt``, ``NAME.key`` and ``ca.crt`` in one directory."""
        return cls(directory / f"{name}.crt", directory / f"{name}.key", directory / "ca.crt")

    def check(self) -> None:
        """Raise `ConfigError` when a certificate comes without its key, or the other way round."""
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.key is None else ("key", "certificate")
            raise ConfigError(f"TLS: there is a {given} and no {missing}", hint=f"name the {missing}'s file, too")

    def stamp(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Something that changes when a file is replaced."""
        return tuple(None if path is None else _stamp(path) for path in (self.certificate, self.key, self.authority))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_ino, status.st_size)


class ServerTls:
    """What a listening socket needs: give ``context`` to it."""

    def __init__(
        self,
        files: TlsFiles,
        *,
        require_client: bool = False,
        ask_client: bool = False,
        protocols: tuple[str, ...] = ("h2", "http/1.1"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``require_client``: only clients with a certificate of the authority get in (mutual TLS). ``ask_client``:
        so do those that show none, and the application judges who may do what.

        Raises `ConfigError`.
        """
        if files.certificate is None:
            raise ConfigError("TLS: a server needs a certificate and its key")
        if (require_client or ask_client) and files.authority is None:
            raise ConfigError(
                "TLS: no authority is named, so no client's certificate could be checked",
                hint="name the file of the authority (ca.crt) that signs the clients' certificates",
            )
        self._files = files
        self._verify = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL if ask_client else ssl.CERT_NONE
        self._protocols = protocols
        self._clock = clock
        self._looked_at = clock()
        self._stamp = files.stamp()
        self.context = self._current = self._load()
        self.context.sni_callback = self._choose
        self.reloads = 0

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _prepare(context, self._files, self._protocols)
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
        context.verify_mode = self._verify
        return context

    def _choose(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        """OpenSSL asks at every handshake, whether the client names a server or not."""
        self.refresh()
        if connection.context is not self._current:
            connection.context = self._current

    def refresh(self) -> None:
        """Take over files that have changed. Called before every handshake; looks at the disk once a second."""
        now = self._clock()
        if now - self._looked_at < _LOOK_EVERY_S:
            return
        self._looked_at = now
        stamp = self._files.stamp()
        if stamp == self._stamp:
            return
        try:
            self._current = self._load()
        except ConfigError as error:
            log.warning("the new certificate cannot be used, the old one stays", reason=str(error))
            return
        self._stamp = stamp
        self.reloads += 1
        log.info("certificate replaced", file=str(self._files.certificate))


class ClientTls:
    """Contexts for outgoing connections."""

    def __init__(
        self, files: TlsFiles, *, protocols: tuple[str, ...] = ("h2",), check_server_name: bool = True
    ) -> None:
        """Without an authority the system's are believed. Raises `ConfigError`.

        ``check_server_name`` false: whoever has a certificate of the authority is believed to be the one dialled. For
        connections that check the name in another way.
        """
        self._files = files
        self._protocols = protocols
        self._check_server_name = check_server_name
        self._stamp = files.stamp()
        self._context = self._load()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _prepare(context, self._files, self._protocols)
        if self._files.authority is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        context.check_hostname = self._check_server_name
        return context

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection. Files that changed are taken over; if they cannot be used, the old stay."""
        stamp = self._files.stamp()
        if stamp != self._stamp:
            try:
                self._context = self._load()
                self._stamp = stamp
            except ConfigError as error:
                log.warning("the new certificate cannot be used, the old one stays", reason=str(error))
        return self._context


def _prepare(context: ssl.SSLContext, files: TlsFiles, protocols: tuple[str, ...]) -> None:
    files.check()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    if files.certificate is not None:
        assert files.key is not None
        for path in (files.certificate, files.key):
            _check_readable(path)
        try:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise ConfigError(
                f"TLS: {files.certificate} and {files.key} cannot be used together: {_reason(error)}",
                hint="both must be PEM, the key unencrypted and made for this certificate",
            ) from error
    if files.authority is not None:
        _check_readable(files.authority)
        try:
            context.load_verify_locations(files.authority)
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"TLS: {files.authority} holds no PEM certificate: {_reason(error)}") from error


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"TLS: cannot read {path}: {error.strerror}") from error


def _no_password() -> str:
    """Asking a person for a password is no way to start a server."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)
