"""Virtual time: one heap of everything that will happen, and one thread that makes it happen in order.

Time is a whole number of nanoseconds since the beginning of the run and stands still while code runs. Events of the
same time happen in the order in which they were scheduled, so a run is a function of its seed. An event belongs to the
world (a fault, a client) or to a process of the cluster, whose `plasmacloud.sim.loop.SimLoop` then carries it out.
"""

from asyncio import events
from collections.abc import Callable
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plasmacloud.sim.loop import SimLoop

NS_PER_S = 1_000_000_000
"""Nanoseconds in a second."""

Event = tuple[int, int, "SimLoop | None", Callable[..., object], tuple[Any, ...]]


class World:
    """The clock and the agenda. ``steps`` counts events, ``turns`` how often a process ran."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.steps = 0
        self.turns = 0
        self.stopped = False
        self.running: SimLoop | None = None  # whose turn it was last: Python's running loop
        self._heap: list[Event] = []
        self._sequence = 0

    @property
    def now_s(self) -> float:
        """Seconds since the beginning."""
        return self.now_ns / NS_PER_S

    def at(self, time_ns: int, loop: "SimLoop | None", call: Callable[..., object], *args: Any) -> None:
        """Schedule ``call(*args)``: of a process when ``loop`` is given, else of the world. The past is now."""
        self._sequence += 1
        now = self.now_ns
        heappush(self._heap, (time_ns if time_ns > now else now, self._sequence, loop, call, args))

    def after(self, delay_ns: int, call: Callable[..., object], *args: Any) -> None:
        """Schedule something that belongs to no process."""
        self.at(self.now_ns + delay_ns, None, call, *args)

    def stop(self) -> None:
        """End `run` behind the present event."""
        self.stopped = True

    def run(self, until_ns: int) -> None:
        """Let everything happen that is due up to then, unless somebody calls `stop`; then it is ``until_ns``."""
        self.stopped = False
        try:
            self._run(until_ns)
        finally:
            self.leave()
        if not self.stopped:
            self.now_ns = max(self.now_ns, until_ns)

    def leave(self) -> None:
        """No process runs: who goes on has a loop of his own, or none."""
        self.running = None
        events._set_running_loop(None)

    def _run(self, until_ns: int) -> None:
        heap = self._heap
        steps = turns = 0
        while heap and heap[0][0] <= until_ns:
            time_ns, _, loop, call, args = heappop(heap)
            assert time_ns >= self.now_ns, "time runs forward"
            self.now_ns = time_ns
            steps += 1
            if loop is None:
                call(*args)
            elif loop.awake:
                # What reaches a process at one moment is one turn of its loop, as with a real one.
                ready = loop.ready
                ready.append((call, args))
                while heap and heap[0][0] == time_ns and heap[0][2] is loop:
                    _, _, _, call, args = heappop(heap)
                    ready.append((call, args))
                    steps += 1
                turns += 1
                loop.turn()
            else:
                loop.miss(call, args)
            if self.stopped:
                break
        self.steps += steps
        self.turns += turns
