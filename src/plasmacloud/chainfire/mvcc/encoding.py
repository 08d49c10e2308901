"""Hand-made protobuf encoding for the hot path.

Building a reply through the protobuf runtime costs more than the put itself, and almost every byte of it is the same
each time. So varints come from tables, the response header is cached up to the low 14 bits of the revision, and
stored records are spliced into replies as they are.
Wire format: https://protobuf.dev/programming-guides/encoding/
"""

_SHORT = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(1 << 14)]
_CONTINUED = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(1 << 14)]
_LOW = (1 << 14) - 1

KVS_TAG = b"\x12"  # field 2: RangeResponse.kvs, PutResponse.prev_kv
PREV_KVS_TAG = b"\x1a"  # field 3: DeleteRangeResponse.prev_kvs
_KVS_PREFIX = [KVS_TAG + _SHORT[n] for n in range(1 << 12)]
_VALUE_TAG = 0x2A


def varint(n: int) -> bytes:
    """Encode a non-negative integer."""
    if n <= _LOW:
        return _SHORT[n]
    rest = n >> 14
    return _CONTINUED[n & _LOW] + (_SHORT[rest] if rest <= _LOW else varint(rest))


def signed(n: int) -> bytes:
    """Encode an int64 as protobuf does: negative numbers take ten bytes."""
    return varint(n & 0xFFFF_FFFF_FFFF_FFFF)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode the varint at ``at``; return it and the offset behind it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def kvs_prefix(size: int) -> bytes:
    """Tag and length that turn a stored record of that size into an element of ``RangeResponse.kvs``."""
    return _KVS_PREFIX[size] if size < len(_KVS_PREFIX) else KVS_TAG + varint(size)


def join_kvs(records: list[bytes]) -> bytes:
    """The records as the repeated field ``RangeResponse.kvs``."""
    table = _KVS_PREFIX
    limit = len(table)
    pieces: list[bytes] = []
    add = pieces.append
    for record in records:
        size = len(record)
        add(table[size] if size < limit else KVS_TAG + varint(size))
        add(record)
    return b"".join(pieces)


def plain_put(body: bytes) -> int:
    """Where the field of the value begins in a PutRequest of a short key and a value, and nothing else; 0: any other.

    Only the canonical encoding counts, so that both fields can become part of a record as they are.
    """
    size = len(body)
    if size < 6 or body[0] != 10:
        return 0
    behind = body[1] + 2
    if body[1] > 127 or behind == 2 or behind + 2 >= size or body[behind] != 18:
        return 0
    low = body[behind + 1]
    if low < 128:
        return behind if behind + 2 + low == size else 0
    high = body[behind + 2]
    return behind if 0 < high < 128 and behind + 3 + (low & 127 | high << 7) == size else 0


def splice_record(put: bytes, value_at: int, create_revision: int, mod_revision: int, version: int) -> bytes:
    """As `encode_record`, from the bytes of a `plain_put`."""
    return b"".join(
        (
            put[:value_at],
            b"\x10",
            varint(create_revision),
            b"\x18",
            varint(mod_revision),
            b"\x20",
            _SHORT[version] if version <= _LOW else varint(version),
            b"\x2a",
            put[value_at + 1 :],
        )
    )


def encode_record(key: bytes, create_revision: int, mod_revision: int, version: int, value: bytes, lease: int) -> bytes:
    """An ``mvccpb.KeyValue`` in canonical field order."""
    size = len(key)
    head = b"".join(
        (
            b"\n",
            _SHORT[size] if size <= _LOW else varint(size),
            key,
            b"\x10",
            varint(create_revision),
            b"\x18",
            varint(mod_revision),
            b"\x20",
            _SHORT[version] if version <= _LOW else varint(version),
        )
    )
    size = len(value)
    if size:
        head = b"".join((head, b"\x2a", _SHORT[size] if size <= _LOW else varint(size), value))
    return head + b"\x30" + signed(lease) if lease else head


def encode_tombstone(key: bytes, mod_revision: int) -> bytes:
    """The record of a deletion: the ``KeyValue`` of etcd's DELETE event, key and revision only."""
    return b"".join((b"\n", varint(len(key)), key, b"\x18", varint(mod_revision)))


def without_value(record: bytes) -> bytes:
    """The record as ``keys_only`` shows it. The record is one of ours, so the field order is known."""
    size, at = read_varint(record, 1)
    at += size
    end = len(record)
    while at < end:
        if record[at] == _VALUE_TAG:
            size, behind = read_varint(record, at + 1)
            return record[:at] + record[behind + size :]
        at += 1
        while record[at] >= 128:
            at += 1
        at += 1
    return record


class HeaderEncoder:
    """Encodes ``ResponseHeader`` as field 1 of a reply.

    Only the revision changes from reply to reply: all but its low 14 bits is kept ready.
    """

    __slots__ = ("_back", "_front", "_high", "_identity", "term")

    def __init__(self, cluster_id: int, member_id: int) -> None:
        self._identity = b"".join(
            tag + varint(number) for tag, number in ((b"\x08", cluster_id), (b"\x10", member_id)) if number
        )
        self.term = 0
        self._high = -1
        self._front = self._back = b""

    def set_term(self, term: int) -> None:
        """The raft term that replies carry from now on."""
        if term != self.term:
            self.term = term
            self._high = -1

    def field(self, revision: int) -> bytes:
        """The complete header field for a reply at this revision."""
        if revision >> 14 != self._high:
            return self._slow(revision)
        return self._front + _CONTINUED[revision & _LOW] + self._back

    def _slow(self, revision: int) -> bytes:
        term = b"\x20" + varint(self.term) if self.term else b""
        digits = varint(revision)
        body = self._identity + b"\x18" + digits + term
        prefix = b"\n" + varint(len(body))
        if revision > _LOW:
            self._high = revision >> 14
            self._front = prefix + self._identity + b"\x18"
            self._back = digits[2:] + term
        return prefix + body


def bare_header(revision: int) -> bytes:
    """The header field of an operation inside a transaction: nothing but the revision."""
    digits = varint(revision)
    return b"\n" + bytes((len(digits) + 1,)) + b"\x18" + digits
