"""Messages as bytes.

Layout (little endian): a fixed header, then ``data``, then the entries as the very records that go to disk, so that an
entry is encoded once in its life. The frame around it (length, connection handshake, versions) is the transport's.
"""

import struct

from plasmacloud.base.errors import PlasmaError
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.storage.entry import CorruptRecord, Entry
from plasmacloud.storage.entry_codec import decode_entry

_HEADER = struct.Struct("<BBQQQQQQQQQII")
_REJECT = 1
_FORCE = 2
_KNOWN_FLAGS = _REJECT | _FORCE
_TYPES: dict[int, MessageType] = {int(kind): kind for kind in MessageType}


class BadMessage(PlasmaError):
    """The bytes are not one whole, unaltered message."""


def encode_message(message: Message) -> bytes:
    """Encode a message; all numbers must fit 64 bits."""
    entries = message.entries
    data = message.data
    header = _HEADER.pack(
        message.type,
        (_REJECT if message.reject else 0) | (_FORCE if message.force else 0),
        message.to,
        message.sender,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.hint_index,
        message.hint_term,
        message.context,
        len(data),
        len(entries),
    )
    if not entries:
        return header + data if data else header
    return b"".join([header, data, *[entry.record for entry in entries]])


def decode_message(buffer: bytes | memoryview) -> Message:
    """Decode one message that fills ``buffer``. Raises `BadMessage` on anything else."""
    if len(buffer) < _HEADER.size:
        raise BadMessage(f"message of {len(buffer)} bytes is shorter than a header")
    kind, flags, to, sender, term, log_term, index, commit, hint_index, hint_term, context, data_bytes, count = (
        _HEADER.unpack_from(buffer)
    )
    message_type = _TYPES.get(kind)
    if message_type is None or flags & ~_KNOWN_FLAGS:
        raise BadMessage(f"unknown message type {kind} or flags {flags:#x}")
    at = _HEADER.size + data_bytes
    if at > len(buffer):
        raise BadMessage(f"message claims {data_bytes} bytes of data, which are not there")
    entries: list[Entry] = []
    try:
        for _ in range(count):
            entry, at = decode_entry(buffer, at)
            entries.append(entry)
    except CorruptRecord as error:
        raise BadMessage(f"message holds a bad entry: {error}") from error
    if at != len(buffer):
        raise BadMessage(f"message is followed by {len(buffer) - at} stray bytes")
    return Message(
        message_type,
        to,
        sender,
        term,
        log_term,
        index,
        commit,
        hint_index,
        hint_term,
        context,
        bool(flags & _REJECT),
        bool(flags & _FORCE),
        entries,
        bytes(buffer[_HEADER.size : _HEADER.size + data_bytes]),
    )
