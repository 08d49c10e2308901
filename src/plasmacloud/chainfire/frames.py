"""The frames between members, by their first byte. What follows belongs to the room that the kind names."""

import struct

RAFT = b"\x00"  # a raft message
COMMANDS = b"\x01"  # a batch of commands for the leader
FLOOR = b"\x02"  # the index up to which every member has the log
CHANGE = b"\x03"  # a batch of one membership command for the leader
SNAPSHOT = b"\x04"  # a frame of a snapshot transfer

_INDEX = struct.Struct("<Q")


def floor(index: int) -> bytes:
    """A whole frame of the kind `FLOOR`."""
    return FLOOR + _INDEX.pack(index)


def read_floor(frame: bytes) -> int:
    """The index in a frame of the kind `FLOOR`. Raises `struct.error` when it is cut short."""
    index: int
    (index,) = _INDEX.unpack_from(frame, 1)
    return index
