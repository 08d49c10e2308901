"""Everything a member needs from outside that is not its configuration: disk, network, wall clock, chance.

A running member opens no file and no socket, reads no clock and draws no number but through this and the event loop it
runs on: the loop is its monotonic clock, its timers and (``run_in_executor``) its worker threads. So whoever gives it
another environment decides what happens to it, and the member cannot tell.
"""

import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import msgspec

from plasmacloud.base.alarm import AlarmFactory, LoopAlarm, best_alarm
from plasmacloud.chainfire.security import Security
from plasmacloud.rpc.peer import PeerTransport
from plasmacloud.rpc.transport import TransportFactory
from plasmacloud.storage.disk import Disk, OsDisk
from plasmacloud.storage.record_store import RecordStores
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.workers import ThreadWorkers, Workers

RandBits: TypeAlias = Callable[[int], int]
"""So many random bits as a number."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """``now_ns``: the wall clock, nanoseconds since 1970. It orders the lives of a data directory, and nothing else.

    ``stopwatch``: seconds of any clock that never goes back, to measure with what the loop's clock is too coarse for;
    any thread. ``alarms``: timers for waits of that length.
    """

    disk: Disk
    stores: RecordStores
    workers: Workers
    transport: TransportFactory
    now_ns: Callable[[], int]
    randbits: RandBits
    stopwatch: Callable[[], float] = time.perf_counter
    alarms: AlarmFactory = LoopAlarm

    @staticmethod
    def production(security: Security | None = None) -> "Environment":
        """The machine as it is. Members talk to each other as ``security`` says. Raises `ConfigError`."""
        tls = None if security is None else security.for_peers()
        return Environment(
            disk=OsDisk(),
            stores=StateStore,
            workers=ThreadWorkers(),
            transport=PeerTransport if tls is None else partial(PeerTransport, server_tls=tls[0], client_tls=tls[1]),
            now_ns=time.time_ns,
            randbits=secrets.randbits,
            alarms=best_alarm,
        )
