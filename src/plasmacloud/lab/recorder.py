"""Writes what is observed to the evidence directory of one scenario.

Events are written at once: they are few, and they explain everything else. Operations and status answers are
buffered and written between trials, so that the lab's own disk use does not disturb what it measures.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from plasmacloud.lab.plan import Plan
from plasmacloud.verify.events import AnyEvent
from plasmacloud.verify.files import UnreadableEvidence, encode_lines, read_lines
from plasmacloud.verify.history import Op
from plasmacloud.verify.observations import KeyRecord, MembersSample, Reading, StatusSample
from plasmacloud.verify.reads import ReadOp
from plasmacloud.verify.registers import RegisterOp

T = TypeVar("T")

PLAN = "plan.json"
EVENTS = "events.jsonl"
HISTORY = "history.jsonl"
STATUSES = "status.jsonl"
READS = "reads.jsonl"
REGISTERS = "registers.jsonl"
MEMBERS = "members.jsonl"
READINGS = "readings"
READING_INDEX = "readings/index.jsonl"
LOGS = "logs"


class ReadingInfo(msgspec.Struct, frozen=True):
    """A reading without its contents, which are in one file for each node."""

    label: str
    prefix: str
    revision: int
    began_ns: int
    nodes: tuple[str, ...]
    missing: dict[str, str]


class Record(msgspec.Struct, frozen=True):
    """The evidence of one scenario, loaded: all that a judge may look at."""

    plan: Plan
    events: list[AnyEvent]
    history: list[Op]
    statuses: list[StatusSample]
    readings: list[Reading]
    reads: list[ReadOp] = msgspec.field(default_factory=list)
    members: list[MembersSample] = msgspec.field(default_factory=list)
    registers: list[RegisterOp] = msgspec.field(default_factory=list)


class Recorder:
    """Appends observations of one scenario run to its directory."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        (directory / READINGS).mkdir(parents=True)
        (directory / PLAN).write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=2) + b"\n")
        for name in (EVENTS, HISTORY, STATUSES, READING_INDEX):
            (directory / name).touch()
        self._ops: list[Op] = []
        self._statuses: list[StatusSample] = []
        self._reads: list[ReadOp] = []
        self._registers: list[RegisterOp] = []

    def event(self, event: AnyEvent) -> None:
        """Record what the lab did."""
        self._append(EVENTS, [event])

    def op(self, op: Op) -> None:
        """Record a finished operation."""
        self._ops.append(op)

    def status(self, sample: StatusSample) -> None:
        """Record a status answer."""
        self._statuses.append(sample)

    def members(self, sample: MembersSample) -> None:
        """Record a change of the member list."""
        self._append(MEMBERS, [sample])

    def read(self, read: ReadOp) -> None:
        """Record a finished linearizable read."""
        self._reads.append(read)

    def register(self, op: RegisterOp) -> None:
        """Record a finished attempt on a contended key."""
        self._registers.append(op)

    def reading(self, reading: Reading) -> None:
        """Record the contents of all nodes."""
        info = ReadingInfo(
            reading.label, reading.prefix, reading.revision, reading.began_ns, tuple(reading.nodes), reading.missing
        )
        for node, records in reading.nodes.items():
            path = self.directory / READINGS / f"{reading.label}.{node}.jsonl"
            path.write_bytes(encode_lines(records))
        self._append(READING_INDEX, [info])

    def flush(self) -> None:
        """Write what is buffered."""
        self._append(HISTORY, self._ops)
        self._append(STATUSES, self._statuses)
        if self._reads:
            self._append(READS, self._reads)
        if self._registers:
            self._append(REGISTERS, self._registers)
        self._ops.clear()
        self._statuses.clear()
        self._reads.clear()
        self._registers.clear()

    def _append(self, name: str, items: Iterable[object]) -> None:
        with (self.directory / name).open("ab") as file:
            file.write(encode_lines(items))


def load_record(directory: Path) -> Record:
    """Load the evidence of one scenario. Raises `UnreadableEvidence`."""
    readings = []
    index: list[ReadingInfo] = read_lines(directory / READING_INDEX, ReadingInfo)
    for info in index:
        nodes: dict[str, list[KeyRecord]] = {
            node: read_lines(directory / READINGS / f"{info.label}.{node}.jsonl", KeyRecord) for node in info.nodes
        }
        readings.append(Reading(info.label, info.prefix, info.revision, info.began_ns, nodes, info.missing))
    return Record(
        plan=_load_plan(directory / PLAN),
        events=read_lines(directory / EVENTS, AnyEvent),
        history=read_lines(directory / HISTORY, Op),
        statuses=read_lines(directory / STATUSES, StatusSample),
        readings=readings,
        reads=_if_there(directory / READS, ReadOp),
        members=_if_there(directory / MEMBERS, MembersSample),
        registers=_if_there(directory / REGISTERS, RegisterOp),
    )


def _if_there(path: Path, kind: type[T]) -> list[T]:
    """Observations that only some scenarios make."""
    return read_lines(path, kind) if path.exists() else []


def _load_plan(path: Path) -> Plan:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Plan)
    except (OSError, msgspec.DecodeError) as error:
        raise UnreadableEvidence(f"{path} cannot be read: {error}") from error
