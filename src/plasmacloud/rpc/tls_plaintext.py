"""What a client gets to read that speaks plaintext to a port with TLS: an answer in the protocol that it speaks."""

import ssl

from plasmacloud.rpc.h2.errors import ErrorCode
from plasmacloud.rpc.h2.frames import goaway_frame, settings_frame

_TEXT = "this port speaks TLS: use https://, and the authority's certificate (ca.crt)"
_HTTP1 = (
    "HTTP/1.1 400 Bad Request\r\n"
    f"content-type: text/plain\r\ncontent-length: {len(_TEXT) + 1}\r\nconnection: close\r\n\r\n{_TEXT}\n"
).encode()


def answer_plaintext(error: ssl.SSLError) -> bytes:
    """OpenSSL recognises requests of HTTP/1.1; whatever else it is gets an HTTP/2 connection that ends at once."""
    if error.reason == "HTTP_REQUEST":
        return _HTTP1
    return settings_frame([]) + goaway_frame(0, ErrorCode.INADEQUATE_SECURITY, _TEXT.encode())
