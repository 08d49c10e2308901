"""What goes wrong in a TLS handshake, in words for an operator, and said to the other side as well.

OpenSSL answers a handshake that it refuses with an alert, which tells the other side why. asyncio and uvloop drop it:
they close the connection before it is sent. `SpokenContext` lets whoever accepts connections send it (`parting_word`).
"""

import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


class PartingWord:
    """Called in the middle of a handshake that fails, with the alert that the other side should get, and the reason.

    For one connection: the next one that is made in the same task, or in what the task calls.
    """

    _waiting: "ContextVar[PartingWord | None]" = ContextVar("parting_word", default=None)

    def __init__(self, speak: Callable[[bytes, ssl.SSLError], None]) -> None:
        self._speak: Callable[[bytes, ssl.SSLError], None] | None = speak
        self._waiting.set(self)

    @classmethod
    def take(cls) -> Callable[[bytes, ssl.SSLError], None] | None:
        """The one that waits. What a connection calls later runs in the same context, and must not get it again."""
        word = cls._waiting.get()
        if word is None:
            return None
        speak, word._speak = word._speak, None
        return speak


_NOT_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE"}
_WORDS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate",
    "NO_SHARED_CIPHER": "no cipher that both sides know",
    "UNSUPPORTED_PROTOCOL": "it speaks no version of TLS from 1.2 on",
    "VERSION_TOO_LOW": "it speaks no version of TLS from 1.2 on",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the other side wants to see a certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the authority of this side's certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the other side finds this side's certificate expired",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not accept this side's certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the other side does not accept this side's certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the other side does not accept this side's certificate for this purpose",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side speaks no version of TLS from 1.2 on",
    "TLSV1_UNRECOGNIZED_NAME": "the other side does not go by that name",
    "UNEXPECTED_EOF_WHILE_READING": "the other side hung up",
}


def speaks_no_tls(error: BaseException | None) -> bool:
    """Whether the first bytes of the other side were not TLS at all."""
    return isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS


def describe_tls_error(error: BaseException) -> str:
    """One line that says what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        if speaks_no_tls(error):
            return "it does not speak TLS"
        return _WORDS.get(error.reason or "", f"no TLS connection: {error.reason or error}")
    if isinstance(error, ConnectionError) and not error.args:  # so the event loops report it
        return "it hung up in the middle of the TLS handshake"
    return str(error) or type(error).__name__


class _SpokenObject(ssl.SSLObject):
    """Hands the alert over before those who drive the handshake learn that it failed."""

    spoken_to: "tuple[ssl.MemoryBIO, Callable[[bytes, ssl.SSLError], None]] | None" = None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            if self.spoken_to is not None:
                outgoing, speak = self.spoken_to
                speak(outgoing.read(), error)
            raise


class SpokenContext(ssl.SSLContext):
    """A context whose connections say why they end."""

    sslobject_class = _SpokenObject

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **named: Any) -> ssl.SSLObject:
        """As in `ssl.SSLContext`."""
        made = super().wrap_bio(incoming, outgoing, *args, **named)
        speak = PartingWord.take()
        if speak is not None and isinstance(made, _SpokenObject):
            made.spoken_to = (outgoing, speak)
        return made
