"""Everything a member needs from outside that is not its configuration: disk, network, wall clock, chance.

A running member opens no file and no socket, reads no clock and draws no number but through this and the event loop it
runs on: the loop is its monotonic clock, its timers and (``run_in_executor``) its worker threads. So whoever gives it
another environment decides what happens to it, and the member cannot tell.
"""

import secrets
import time
from collections.abc import Callable
from typing import TypeAlias

import msgspec

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

    ``stopwatch``: seconds of any clock that never goes back, to measure the disk with; any thread.
    """

    disk: Disk
    stores: RecordStores
    workers: Workers
    transport: TransportFactory
    now_ns: Callable[[], int]
    randbits: RandBits
    stopwatch: Callable[[], float] = time.perf_counter

    @staticmethod
    def production() -> "Environment":
        """The machine as it is."""
        return Environment(
            disk=OsDisk(),
            stores=StateStore,
            workers=ThreadWorkers(),
            transport=PeerTransport,
            now_ns=time.time_ns,
            randbits=secrets.randbits,
        )
