"""Work in slices: what may take long is done piece by piece, with room for others in between.

A generator does a piece, yields what that cost, and returns its result in the end. The unit is a key looked at or
changed, a few microseconds. Whoever drives it decides how much is enough for now; that depends on nothing but the
requests and the state, so a simulated run has its slices in the same places each time.
"""

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

Work = Generator[int, None, T]

SLICE_KEYS = 1000
"""Enough for now: a few milliseconds."""
CHUNK_KEYS = 128
"""So much at most, roughly, is done between two yields."""
CHUNK_RECORDS = 16
"""The same where records are read: each may be a megabyte."""


def finish(work: Work[T]) -> T:
    """All pieces at once."""
    try:
        while True:
            next(work)
    except StopIteration as done:
        result: T = done.value
        return result
