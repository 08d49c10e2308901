"""Frames byte for byte against RFC 9113 section 6, settings and their bounds."""

import pytest

from plasmacloud.rpc.h2 import frames
from plasmacloud.rpc.h2.errors import ConnectionFault, ErrorCode
from plasmacloud.rpc.h2.settings import PeerSettings, Setting


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (frames.data_frame(1, b"ab", end_stream=True), "000002 00 01 00000001 6162"),
        (frames.data_frame(3, b""), "000000 00 00 00000003"),
        (frames.rst_stream_frame(5, ErrorCode.CANCEL), "000004 03 00 00000005 00000008"),
        (frames.settings_frame([(4, 65536), (3, 100)]), "00000c 04 00 00000000 000400010000 000300000064"),
        (frames.SETTINGS_ACK, "000000 04 01 00000000"),
        (frames.ping_frame(b"12345678"), "000008 06 00 00000000 3132333435363738"),
        (frames.ping_frame(b"12345678", ack=True), "000008 06 01 00000000 3132333435363738"),
        (frames.goaway_frame(7, ErrorCode.PROTOCOL_ERROR, b"no"), "00000a 07 00 00000000 00000007 00000001 6e6f"),
        (frames.window_update_frame(9, 0x7FFFFFFF), "000004 08 00 00000009 7fffffff"),
        (
            frames.headers_frames(1, b"abcdefg", end_stream=True, max_frame_bytes=3),
            "000003 01 01 00000001 616263 000003 09 00 00000001 646566 000001 09 04 00000001 67",
        ),
        (
            frames.headers_frames(1, b"abc", end_stream=False, max_frame_bytes=3),
            "000003 01 04 00000001 616263",
        ),
    ],
)
def test_frames_are_built_as_the_rfc_draws_them(built: bytes, expected: str) -> None:
    assert built == bytes.fromhex(expected)


def test_padding_and_priority_are_cut_off() -> None:
    padded = b"\x02" + b"body" + b"\0\0"
    assert frames.strip_padding(frames.PADDED, padded, 0, len(padded), headers=False) == (1, 5)
    both = b"\x01" + b"\x80\0\0\0\x10" + b"block" + b"\0"
    flags = frames.PADDED | frames.PRIORITIZED
    assert frames.strip_padding(flags, both, 0, len(both), headers=True) == (6, 11)
    only_padding = b"\x03\0\0\0"
    assert frames.strip_padding(frames.PADDED, only_padding, 0, 4, headers=False) == (4 - 3, 1)


@pytest.mark.parametrize(
    ("payload", "flags", "code"),
    [
        (b"", frames.PADDED, ErrorCode.FRAME_SIZE_ERROR),
        (b"\x05abc", frames.PADDED, ErrorCode.PROTOCOL_ERROR),
        (b"abcd", frames.PRIORITIZED, ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_padding_that_does_not_fit_is_a_fault(payload: bytes, flags: int, code: ErrorCode) -> None:
    with pytest.raises(ConnectionFault) as caught:
        frames.strip_padding(flags, payload, 0, len(payload), headers=True)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        (Setting.INITIAL_WINDOW_SIZE, 1 << 31, ErrorCode.FLOW_CONTROL_ERROR),
        (Setting.MAX_FRAME_SIZE, 16_383, ErrorCode.PROTOCOL_ERROR),
        (Setting.MAX_FRAME_SIZE, 1 << 24, ErrorCode.PROTOCOL_ERROR),
        (Setting.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_bounds_are_faults_and_change_nothing(name: int, value: int, code: ErrorCode) -> None:
    settings = PeerSettings()
    with pytest.raises(ConnectionFault) as caught:
        settings.apply(name, value)
    assert caught.value.code is code
    assert settings == PeerSettings()


def test_unknown_settings_are_ignored_and_known_ones_kept() -> None:
    settings = PeerSettings()
    settings.apply(0x99, 1)
    assert settings == PeerSettings()
    settings.apply(Setting.MAX_CONCURRENT_STREAMS, 7)
    settings.apply(Setting.INITIAL_WINDOW_SIZE, 0)
    assert (settings.max_concurrent_streams, settings.initial_window_bytes) == (7, 0)


def test_payloads_of_the_wrong_size_are_faults() -> None:
    for parse in (lambda: frames.parse_settings(b"12345"), lambda: frames.parse_u32(b"123", "RST_STREAM")):
        with pytest.raises(ConnectionFault) as caught:
            parse()
        assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR
    with pytest.raises(ConnectionFault):
        frames.parse_goaway(b"1234567")
