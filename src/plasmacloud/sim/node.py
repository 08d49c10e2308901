"""One machine of a simulated cluster: its disk, its clock, and the lives of the member on it, one after the other."""

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from plasmacloud.chainfire.config import ServerConfig
from plasmacloud.chainfire.environment import Environment
from plasmacloud.sim.clock import World
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.loop import SimLoop
from plasmacloud.sim.network import Network
from plasmacloud.sim.process import DiskOptions, SimWorkers, Workshop
from plasmacloud.sim.store import SimStores
from plasmacloud.sim.trace import Trace

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember

EPOCH_NS = 1_700_000_000_000_000_000
"""The wall clock at the beginning of a run."""


class Machinery(msgspec.Struct, frozen=True):
    """What the machines of a cluster share."""

    world: World
    network: Network
    trace: Trace
    disk_options: DiskOptions
    transport: Callable[..., Any]  # takes rng and clock_ns besides what a `TransportFactory` takes
    member_class: "type[RunningMember]"
    observe: "Callable[[Node, SimLoop, RunningMember | None], None]"  # behind every turn of a process
    ended: "Callable[[Node, BaseException | None], None]"  # a process ended by itself
    died: "Callable[[Node], None]"  # a process came to its end while it opened its data


class Doors:
    """The clients' doors of a member: there are none, the workload comes in through the wall."""

    async def open(self) -> None:
        """Let clients in."""

    def set_serving(self, serving: bool) -> None:
        """A leader is known, or not."""

    async def drain(self) -> None:
        """Let nobody new in."""

    async def close(self) -> None:
        """Nobody is in."""


class Life:
    """One process."""

    def __init__(self, node: "Node", rate: float) -> None:
        from plasmacloud.chainfire.running_member import Lives

        machinery = node.machinery
        self.node = node
        self.workshop = Workshop(machinery.world, node.disk, machinery.disk_options, node.rng)
        self.workshop.set_factor(node.disk_factor)
        self.loop = SimLoop(  # type: ignore[abstract]  # asyncio's base class has no abstract methods
            machinery.world, net=machinery.network, executor=self.workshop, on_turn=self._on_turn, rate=rate
        )
        self.workshop.loop = self.loop
        machinery.network.name_process(self.loop, node.name)
        environment = Environment(
            disk=node.disk,
            stores=SimStores(node.disk),
            workers=SimWorkers(self.workshop),
            transport=partial(
                machinery.transport,
                rng=random.Random(node.rng.getrandbits(64)),
                clock_ns=lambda: machinery.world.now_ns,
            ),
            now_ns=node.wall_ns,
            stopwatch=lambda: machinery.world.now_s,
            randbits=node.rng.getrandbits,
        )
        self.lives = Lives(node.config, environment, lambda _: Doors(), member_class=machinery.member_class)
        self.stop: asyncio.Event | None = None
        self.task: asyncio.Task[None] | None = None
        self._reported = False

    def begin(self) -> None:
        """The first thing the process does."""
        self.stop = asyncio.Event()
        self.task = self.loop.create_task(self.lives.run(self.stop), name="lives")

    def opened(self) -> "RunningMember | None":
        """The member, when it has opened its data, so that there is something to look at and to ask."""
        member = self.lives.member
        return member if member is not None and "snapshots" in member.__dict__ else None

    def _on_turn(self) -> None:
        loop, node = self.loop, self.node
        if loop.dead:
            return
        node.machinery.observe(node, loop, self.opened())
        task = self.task
        if task is not None and task.done() and not self._reported:
            self._reported = True
            world = node.machinery.world
            world.at(world.now_ns, None, node.process_ended, self, task.exception())


class Node:
    """``name`` is its host name. ``exit``: how its last process ended by itself, if it did."""

    def __init__(self, machinery: Machinery, name: str, config: ServerConfig, rng: random.Random) -> None:
        self.machinery = machinery
        self.name = name
        self.config = config
        self.rng = rng
        self.disk = SimDisk(rng)
        self.disk_factor = 1.0
        self.life: Life | None = None
        self.reachable = True  # the machine has power and would answer a packet
        self.exit: BaseException | None = None
        self.starts = 0
        self.clock_rate = 1.0
        self.wall_offset_ns = 0
        self.damaged = False  # the medium was altered: the member may refuse to start
        self.had_trouble = False  # an operation of the disk failed: the process may end by itself

    @property
    def member_id(self) -> int:
        """The id of the member on it."""
        return self.config.member.id

    @property
    def running(self) -> bool:
        """Whether there is a process, be it paused."""
        return self.life is not None

    @property
    def paused(self) -> bool:
        """Whether its process exists and does not run."""
        return self.life is not None and not self.life.loop.awake

    @property
    def member(self) -> "RunningMember | None":
        """The member that runs on it, if there is one that has opened its data."""
        return None if self.life is None else self.life.opened()

    def wall_ns(self) -> int:
        """The wall clock of the machine."""
        return EPOCH_NS + self.machinery.world.now_ns + self.wall_offset_ns

    def start(self, *, false_start: int | None = None) -> None:
        """Start a process. ``false_start``: it comes to its end after so many operations of the disk, unless it is done
        with opening its data by then.
        """
        assert self.life is None
        self.starts += 1
        self.exit = None
        self.reachable = True
        self.disk.restart(power_lost=False)
        self.disk.false_start = false_start
        self.machinery.network.machine_answers(self.name)
        life = self.life = Life(self, self.clock_rate)
        self.machinery.trace.note(self.name, "starts")
        life.loop.enter(life.begin)

    def end(self, *, power_lost: bool) -> None:
        """Kill the process; with ``power_lost`` the whole machine."""
        life = self.life
        if life is not None:
            life.workshop.die()
            self.life = None
            life.loop.kill()
            self.machinery.network.process_ended(self.name, silently=power_lost)
        self.disk.restart(power_lost=power_lost)
        self.reachable = not power_lost

    def pause(self) -> None:
        """Stop the process, for a while."""
        if self.life is not None:
            self.life.loop.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self.life is not None:
            self.life.loop.resume()

    def set_disk_factor(self, factor: float) -> None:
        """So many times slower than usual is the disk from now on."""
        self.disk_factor = factor
        if self.life is not None:
            self.life.workshop.set_factor(factor)

    def leave(self) -> None:
        """Ask the process to end in good order."""
        if self.life is not None and self.life.stop is not None:
            self.life.loop.enter(self.life.stop.set)

    def process_ended(self, life: Life, error: BaseException | None) -> None:
        """It ended by itself, or in the middle of a start."""
        if self.life is not life:
            return
        if self.disk.dead:
            self.machinery.died(self)
            return
        self.exit = error
        self.end(power_lost=False)
        self.machinery.trace.note(self.name, f"ended: {_shorten(error)}")
        self.machinery.ended(self, error)


def _shorten(error: BaseException | None) -> str:
    return "in good order" if error is None else f"{type(error).__name__}: {error}"[:200]
