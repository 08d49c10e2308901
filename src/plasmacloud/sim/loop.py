"""The event loop of one simulated process: asyncio's interface on top of the world's agenda.

Tasks, futures, events, timeouts and executors of real code run on it unchanged. A turn of the loop takes no virtual
time: what `call_soon` adds in it runs in it, but for work that calls itself again and again, to let others come in
between: they come. Time passes between turns, as long as the network, the disk and the timers say. Calls to an executor
happen at the end of a drawn delay, all at once.

A process is *paused* (what happens to it waits, as for a stopped process), or *dead*: what was on its way to it is
forgotten, and its coroutines are closed without a word. Its clock may run a little fast or slow.
"""

import asyncio
import contextlib
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol

from plasmacloud.sim.clock import NS_PER_S, World
from plasmacloud.sim.disk import PowerLoss

_BURIAL_ATTEMPTS = 100
_PRUNE_TASKS = 64
_ROUNDS = 6  # of calls that make calls, in one turn
_BETWEEN_NS = 1_000_000  # so long takes what such a turn leaves undone to have its next


class SimHandle:
    """What `SimLoop.call_soon` and its kin return."""

    __slots__ = ("_args", "_call", "_cancelled", "_when")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], when: float) -> None:
        self._call = call
        self._args = args
        self._when = when
        self._cancelled = False

    def cancel(self) -> None:
        """It will not run."""
        self._cancelled = True

    def cancelled(self) -> bool:
        """Whether it will not run."""
        return self._cancelled

    def when(self) -> float:
        """When it is due, in the time of its loop."""
        return self._when

    def run(self) -> None:
        """Its time has come."""
        if not self._cancelled:
            self._call(*self._args)


class Net(Protocol):
    """Where connections come from."""

    def listen(self, loop: "SimLoop", factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Any: ...

    async def connect(self, loop: "SimLoop", factory: Callable[[], asyncio.Protocol], host: str, port: int) -> Any: ...


class Executor(Protocol):
    """How long blocking calls take, and what becomes of them when the process dies meanwhile."""

    def submit(self, call: Callable[[], Any], finished: Callable[[Any, BaseException | None], None]) -> None: ...


class SimLoop(asyncio.AbstractEventLoop):
    """The loop of one life of one process. ``rate``: seconds of its clock per second of the world's."""

    def __init__(
        self, world: World, *, net: Net, executor: Executor, on_turn: Callable[[], None], rate: float = 1.0
    ) -> None:
        """``on_turn`` is called behind every turn, when the process is at rest."""
        self.world = world
        self.awake = True
        self.dead = False
        self.ready: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.errors: list[dict[str, Any]] = []
        self._missed: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._net = net
        self._executor = executor
        self._on_turn = on_turn
        self._scale = rate / NS_PER_S
        self._tasks: list[asyncio.Task[Any]] = []
        self._prune_at = _PRUNE_TASKS

    # Turns

    def turn(self) -> None:
        """Run what is ready, and what that makes ready, until nothing is, or it seems not to end."""
        ready = self.ready
        if self.world.running is not self:
            self.world.running = self
            events._set_running_loop(self)
        try:
            for _ in range(_ROUNDS):
                for _ in range(len(ready)):
                    call, args = ready.popleft()
                    call(*args)
                if not ready:
                    break
            else:
                self.world.at(self.world.now_ns + _BETWEEN_NS, self, _nothing)
        except PowerLoss:  # not another word; what was said in this turn is looked at all the same
            self.awake = False
            ready.clear()
        except Exception as error:  # noqa: BLE001 - as asyncio does: one callback fails, the others go on
            self.errors.append({"message": "exception in a callback", "exception": error})
            self.world.at(self.world.now_ns, self, _nothing)
        self._on_turn()

    def enter(self, call: Callable[..., object], *args: Any) -> None:
        """Run something as the next turn of this process, now. Called by the world."""
        if self.awake:
            self.ready.append((call, args))
            self.turn()
        else:
            self.miss(call, args)

    def miss(self, call: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Something happens to a process that does not run."""
        if not self.dead:
            self._missed.append((call, args))

    def pause(self) -> None:
        """Stop running."""
        self.awake = False

    def resume(self) -> None:
        """Run again, beginning with everything that was missed."""
        if not self.dead:
            self.awake = True
            self.ready.extend(self._missed)
            self._missed.clear()
            self.turn()

    def kill(self) -> None:
        """The process is gone."""
        self.awake, self.dead = False, True
        self.ready.clear()
        self._missed.clear()
        running = events._get_running_loop()
        events._set_running_loop(self)
        try:
            for task in self._tasks:
                _bury(task)
        finally:
            events._set_running_loop(running)
        self._tasks.clear()

    # Time

    def time(self) -> float:
        return self.world.now_ns * self._scale

    def call_soon(  # type: ignore[override]  # a lighter handle than asyncio's
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        handle = SimHandle(callback, args, 0.0)
        if not self.dead:
            if context is None:
                self.ready.append((handle.run, ()))
            else:
                self.ready.append((context.run, (handle.run,)))
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there is one thread

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        if context is not None:
            args = (callback, *args)
            callback = context.run
        handle = SimHandle(callback, args, when)
        if not self.dead:
            self.world.at(round(when / self._scale), self, handle.run)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> SimHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    # Tasks and futures

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        tasks = self._tasks
        tasks.append(task)
        if len(tasks) >= self._prune_at:
            tasks[:] = [task for task in tasks if not task.done()]
            self._prune_at = 2 * len(tasks) + _PRUNE_TASKS
        return task

    def run_in_executor(  # type: ignore[override]
        self, executor: None, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        assert executor is None
        future = self.create_future()

        def finished(result: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        if not self.dead:
            self._executor.submit(lambda: func(*args), finished)
        return future

    # Connections

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_options: Any
    ) -> Any:
        return self._net.listen(self, protocol_factory, host, port)

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.Protocol], host: str, port: int, **_options: Any
    ) -> Any:
        return await self._net.connect(self, protocol_factory, host, port)

    # The rest of what asyncio asks a loop

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return events._get_running_loop() is self

    def is_closed(self) -> bool:
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self.errors.append(context)


def _nothing() -> None:
    """Only to have a turn."""


def _bury(task: "asyncio.Task[Any]") -> None:
    """Make a coroutine end that will never go on; whatever it wants to do on its way out, it does in vain.

    It is not closed: a coroutine that waits for something in its last moments may not be closed then.
    """
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine = task.get_coro()
    if task.done() or coroutine is None:
        return
    with contextlib.suppress(BaseException):
        for _ in range(_BURIAL_ATTEMPTS):
            coroutine.throw(PowerLoss())
