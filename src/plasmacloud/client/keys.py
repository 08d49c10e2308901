"""Keys and ranges of keys.

The key space is all byte strings in byte order. A range is [start, end). Two ends are special: empty means the one
key, and a single zero byte means "up to the last key" (the etcd v3 API's encoding).
"""

Key = bytes | str
"""A key or a value: text is encoded as UTF-8."""

TO_THE_END = b"\0"
"""The range end that means: no end."""

FIRST_KEY = b"\0"
"""The smallest key there can be: keys are not empty."""


def encode(text: Key) -> bytes:
    """Bytes of a key or value."""
    return text.encode() if isinstance(text, str) else text


def prefix_end(prefix: Key) -> bytes:
    """End of the range of all keys that start with ``prefix``; `TO_THE_END` when no key lies behind them.

    It is the prefix with its last byte that is not 0xff raised by one, and cut there.
    """
    head = encode(prefix).rstrip(b"\xff")
    return head[:-1] + bytes((head[-1] + 1,)) if head else TO_THE_END


def after(key: bytes) -> bytes:
    """The smallest key greater than ``key``."""
    return key + b"\0"


def key_range(
    key: Key, *, range_end: Key | None = None, prefix: bool = False, from_key: bool = False
) -> tuple[bytes, bytes]:
    """(start, end) in the encoding of the API. Give at most one of the three; none of them: the one key.

    An empty prefix, or an empty key with ``from_key``, is the whole key space.
    """
    if (range_end is not None) + prefix + from_key > 1:
        raise ValueError("range_end, prefix and from_key exclude each other")
    start = encode(key)
    if prefix:
        return (start, prefix_end(start)) if start else (FIRST_KEY, TO_THE_END)
    if from_key:
        return start or FIRST_KEY, TO_THE_END
    if range_end is not None:
        return start, encode(range_end)
    return start, b""
