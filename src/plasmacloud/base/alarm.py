"""Waits of less than a millisecond.

libuv counts in milliseconds, and so uvloop turns a wait of 0.2 ms into none at all. The kernel's timers are exact to
some microseconds: a ``timerfd`` is one more descriptor that the loop listens to.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from typing import Protocol, TypeAlias

from plasmacloud.base.logging import get_logger

_CLOCK_MONOTONIC = 1
_ITIMERSPEC = struct.Struct("@qqqq")  # interval and first expiry, each in seconds and nanoseconds
_EXPIRIES_BYTES = 8

log = get_logger("base")


class Alarm(Protocol):
    """One timer that is used again and again."""

    def set(self, delay_s: float) -> None:
        """Ring once, so many seconds from now, instead of whatever was set before."""

    def cancel(self) -> None:
        """Do not ring."""

    def close(self) -> None:
        """Never ring again; idempotent."""


AlarmFactory: TypeAlias = Callable[[Callable[[], None]], Alarm]
"""Makes an alarm of the running loop that calls this when it rings."""


class LoopAlarm:
    """An `Alarm` as exact as the loop's own timers."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def set(self, delay_s: float) -> None:
        self.cancel()
        self._handle = self._loop.call_later(delay_s, self._ring)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def close(self) -> None:
        self.cancel()


class KernelAlarm:
    """An `Alarm` of the kernel's. Raises `OSError` where there are none."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            create, self._settime = libc.timerfd_create, libc.timerfd_settime
        except AttributeError as error:
            raise OSError("the C library has no timerfd") from error
        self._fd: int = create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._rang)

    def set(self, delay_s: float) -> None:
        delay_ns = max(int(delay_s * 1e9), 1)  # 0 would mean never
        if not self._arm(*divmod(delay_ns, 1_000_000_000)):
            self._loop.call_soon(self._ring)  # too early is better than never

    def cancel(self) -> None:
        self._arm(0, 0)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            os.close(fd)

    def _arm(self, seconds: int, nanoseconds: int) -> bool:
        """False: the kernel refused."""
        if self._fd < 0:
            return True  # closed: nobody waits
        return bool(self._settime(self._fd, 0, _ITIMERSPEC.pack(0, 0, seconds, nanoseconds), None) == 0)

    def _rang(self) -> None:
        try:
            os.read(self._fd, _EXPIRIES_BYTES)
        except BlockingIOError:
            return  # cancelled, or set anew, after the loop had seen it
        self._ring()


def best_alarm(ring: Callable[[], None]) -> Alarm:
    """The kernel's where there is one, else the loop's."""
    try:
        return KernelAlarm(ring)
    except OSError as error:
        log.debug("no exact timers", error=str(error))
        return LoopAlarm(ring)
