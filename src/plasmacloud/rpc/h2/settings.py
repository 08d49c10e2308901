"""SETTINGS (RFC 9113 section 6.5): which exist, their bounds, and what the peer told us."""

from enum import IntEnum

import msgspec

from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode
from plasmacloud.rpc.h2.frames import DEFAULT_MAX_FRAME_BYTES, MAX_STREAM_ID

DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_TABLE_BYTES = 4096


class Setting(IntEnum):
    """Identifiers of the settings we know; others are ignored, as the RFC asks."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class PeerSettings(msgspec.Struct):
    """What the other side accepts from us; starts at the RFC's defaults."""

    header_table_bytes: int = DEFAULT_TABLE_BYTES
    enable_push: int = 1
    max_concurrent_streams: int = MAX_STREAM_ID
    initial_window_bytes: int = DEFAULT_WINDOW_BYTES
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    max_header_list_bytes: int = MAX_STREAM_ID

    def apply(self, name: int, value: int) -> None:
        """Take one setting over; raises ConnectionFault for a value out of bounds, ignores unknown names."""
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_STREAM_ID:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"initial window of {value} bytes")
            self.initial_window_bytes = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_MAX_FRAME_BYTES <= value <= 0xFF_FFFF:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"maximum frame size of {value} bytes")
            self.max_frame_bytes = value
        elif name == Setting.ENABLE_PUSH:
            if value > 1:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH = {value}")
            self.enable_push = value
        elif name == Setting.HEADER_TABLE_SIZE:
            self.header_table_bytes = value
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.max_concurrent_streams = value
        elif name == Setting.MAX_HEADER_LIST_SIZE:
            self.max_header_list_bytes = value
