"""A run that does not end: code that goes round for ever inside one turn is a defect, and nothing in it would say so.

Virtual time stands still while code runs, so only the processor's clock can tell. It decides about nothing but that: a
run that ends by itself is the same with and without it.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LIMIT_S = 120.0
"""Processor time that no run needs; most take less than a second."""


class TurnsForEver(Exception):
    """Raised inside the code that does not come to an end, so that its traceback says where that is."""


@contextmanager
def watchdog(limit_s: float | None = None) -> Iterator[None]:
    """Raise `TurnsForEver` in what runs so long. Without effect on any but the main thread, where no signal arrives."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    limit_s = LIMIT_S if limit_s is None else limit_s
    before = signal.signal(signal.SIGVTALRM, _bark)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit_s, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)


def _bark(_signal: int, frame: FrameType | None) -> None:
    where = "" if frame is None else f" in {frame.f_code.co_qualname}, line {frame.f_lineno}"
    raise TurnsForEver(f"a run does not come to an end{where}")
