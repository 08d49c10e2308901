"""HTTP/2 error codes (RFC 9113 section 7) and the two kinds of fault: of a connection, of one stream."""

from enum import IntEnum

from plasmacloud.base.errors import PlasmaError


class ErrorCode(IntEnum):
    """Codes carried by RST_STREAM and GOAWAY."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


def code_name(code: int) -> str:
    """The name of an error code; unknown codes keep their number."""
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else f"error {code:#x}"


class ConnectionFault(PlasmaError):
    """The peer broke the protocol in a way that ends the connection: GOAWAY with ``code``, then close."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(PlasmaError):
    """The peer broke the protocol on one stream: RST_STREAM with ``code``; the connection goes on."""

    def __init__(self, stream_id: int, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.stream_id = stream_id
        self.code = code
