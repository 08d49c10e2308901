"""JSON lines on disk: the one format of everything the lab observes.

A line is one observation; a file is append-only, readable with ``less`` and ``jq``, and decodes into typed structs.
A half-written last line (the lab was killed while writing) is reported, not guessed at.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from plasmacloud.base.errors import PlasmaError

T = TypeVar("T")


class UnreadableEvidence(PlasmaError):
    """A file of the evidence is missing, cut short or not what its name says."""


def encode_lines(items: Iterable[object]) -> bytes:
    """One JSON document per line, in order."""
    encoder = msgspec.json.Encoder()
    return encoder.encode_lines(list(items))


def decode_lines(data: bytes, kind: type[T] | object, *, source: str) -> Iterator[T]:
    """Decode JSON lines into ``kind``; ``source`` names the file in the error."""
    decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            raise UnreadableEvidence(
                f"{source} line {number} cannot be read: {error}",
                hint="the file was cut short or altered; run the scenario again",
            ) from error


def read_lines(path: Path, kind: type[T] | object) -> list[T]:
    """All observations of one file; an absent file raises `UnreadableEvidence`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableEvidence(f"{path} cannot be read: {error.strerror}") from error
    return list(decode_lines(data, kind, source=path.name))
