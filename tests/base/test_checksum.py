"""Our CRC-32 is the standard library's, whatever the length, the alignment and the beginning."""

import zlib

from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.base.checksum import crc32


def test_the_check_value_of_the_polynomial() -> None:
    assert crc32(b"123456789") == 0xCBF43926


@given(st.binary(max_size=600), st.integers(0, 2**32 - 1), st.integers(0, 70), st.sampled_from([1, 9, 31]))
def test_it_is_zlibs(data: bytes, before: int, offset: int, times: int) -> None:
    part = memoryview(data * times)[offset:]
    assert crc32(part, before) == zlib.crc32(part, before)
    assert crc32(bytearray(part)) == zlib.crc32(part)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_sums_go_on_from_part_to_part(one: bytes, other: bytes) -> None:
    assert crc32(other, crc32(one)) == zlib.crc32(one + other)
