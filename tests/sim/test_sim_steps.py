"""Rules about steps that harm only with bad luck, and about what all members do alike: each is broken by somebody.

Like `test_sim_books`.
"""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mutants import MembershipNotSaved
from mutants_books import KeepsNothing
from mutants_steps import (
    AdmitsAtOnce,
    AnswersAnybody,
    ChangesInHaste,
    CommitsAllItHas,
    ForgetsDeletions,
    HasNoLease,
    KeepsThePast,
    RemembersProposals,
    ShowsNothingOfBefore,
    WaitsForItsTurn,
)
from rule_breakers import breaks, is_found

from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.member_commands import CommandKind
from plasmacloud.chainfire.mvcc.refusals import COMPACTED, KEY_NOT_FOUND
from plasmacloud.raft.membership import ConfState
from plasmacloud.rpc.peer_door import Door
from plasmacloud.rpc.peer_link import PeerLink
from plasmacloud.rpc.proto import rpc_pb2
from plasmacloud.rpc.proto.rpc_pb2 import Compare, PutRequest, RangeRequest
from plasmacloud.sim.bookkeeping import check_mark
from plasmacloud.sim.disk import SimDisk
from plasmacloud.sim.execution import check_read
from plasmacloud.sim.filing import Steps, check_installed
from plasmacloud.sim.model import Model
from plasmacloud.sim.options import FaultKind, Options
from plasmacloud.sim.simulation import Simulation
from plasmacloud.sim.violation import Violation
from plasmacloud.storage.entry import EntryKind
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.small_files import read_durably
from plasmacloud.storage.wal_format import LogMark

MAX_SEEDS = 24


MODEL = "the store does what the model does"
MUTANTS = {
    "proposals of an earlier term": breaks(
        "what counts as proposed is in the log", FaultKind.CHASE, replica_class=RemembersProposals
    ),
    "a new leader waits for commands": breaks("who waits asks again", replica_class=WaitsForItsTurn),
    "an answer for somebody else": breaks(
        "an append is answered", FaultKind.TRANSFER, FaultKind.PAUSE, raft_class=AnswersAnybody
    ),
    "commits beyond what is shared": breaks("a member commits what it is known to share", raft_class=CommitsAllItHas),
    "changes in haste": breaks(
        "a change of the membership builds on a term's own beginning", FaultKind.CHASE, raft_class=ChangesInHaste
    ),
    "leaders that protect nobody": breaks("who hears from a leader keeps it", raft_class=HasNoLease),
    "let in and not remembered": breaks("who is let in is remembered", register_class=AdmitsAtOnce),
    "previous values left out": breaks(MODEL, machine_class=ShowsNothingOfBefore),
    "changes without a checksum": breaks("every change is in the checksum", machine_class=ForgetsDeletions),
    "compactions left undone": breaks("what is compacted is removed", machine_class=KeepsThePast),
    "checkpoints of other members": breaks(
        "a checkpoint is that of its index", FaultKind.REPLACE, machine_class=MembershipNotSaved
    ),
    "log shortened below somebody": breaks("the log keeps what somebody lacks", log_class=KeepsNothing),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_rule_finds_who_breaks_it(name: str) -> None:
    assert is_found(MUTANTS[name], MAX_SEEDS), f"not found with {MAX_SEEDS} seeds"


def _open_at_once(door: Door, link: PeerLink) -> None:
    door._opened(link)


def _wait_for_nobody(door: Door, members: Any) -> None:
    door._awaited = set()


@pytest.mark.parametrize(("name", "broken"), [("let_in", _open_at_once), ("wait_for", _wait_for_nobody)])
def test_who_speaks_before_all_have_judged_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, broken: Callable[..., None]
) -> None:
    monkeypatch.setattr(Door, name, broken)
    outcome = Simulation(Options(seed=1)).run()
    assert outcome.rule == "nobody speaks before all have judged"


def test_who_looks_at_a_member_may_stumble_over_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(*_: Any) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("plasmacloud.sim.observer.check_store", stumble)
    outcome = Simulation(Options(seed=1)).run()
    assert outcome.rule == "no defect"
    assert "lost" in outcome.text


# Installations


class Directory:
    """A data directory with a state and the one that shall replace it; ``problems``: what was wrong."""

    def __init__(self) -> None:
        self.path = Path("/data")
        self.disk = SimDisk(random.Random(1))
        for name in ("state", "state.new"):
            self.disk.make_directory(self.path / name)
        self.problems: list[str] = []
        self.steps = Steps(self.disk, self.path, lambda violation: self.problems.append(violation.rule))
        self.disk.on_name = self.steps.changes

    def decide(self, *, synced: bool = True) -> None:
        """Write down what is to be done."""
        self.disk.create(self.path / "install.tmp")
        self.disk.rename(self.path / "install.tmp", self.path / "install.json")
        if synced:
            self.disk.sync_directory(self.path)

    def rename(self, source: str, target: str, *, synced: bool = True) -> None:
        """One step."""
        self.disk.rename(self.path / source, self.path / target)
        if synced:
            self.disk.sync_directory(self.path)


def test_an_installation_in_durable_steps() -> None:
    directory = Directory()
    directory.decide()
    directory.rename("state", "state.old")
    directory.rename("state.new", "state")
    assert directory.problems == []


def test_an_installation_whose_step_could_be_undone_behind_the_next_one() -> None:
    directory = Directory()
    directory.decide()
    directory.rename("state", "state.old", synced=False)
    directory.rename("state.new", "state")
    assert directory.problems == ["an installation takes durable steps"]


def test_an_installation_that_is_decided_before_it_is_prepared() -> None:
    directory = Directory()
    directory.disk.create(directory.path / "state.json")
    directory.decide()
    assert directory.problems == ["an installation takes durable steps"]


def test_an_installation_whose_decision_could_be_undone() -> None:
    directory = Directory()
    directory.decide(synced=False)
    directory.rename("state", "state.old")
    assert directory.problems == ["an installation takes durable steps"]


def test_a_decision_of_an_earlier_life_is_made_durable_before_it_is_carried_out() -> None:
    directory = Directory()
    directory.decide(synced=False)
    later = Steps(directory.disk, directory.path, lambda violation: directory.problems.append(violation.rule))
    directory.disk.on_name = later.changes
    assert directory.disk.surely(directory.path / "install.json") is None
    read_durably(directory.path / "install.json", disk=directory.disk)
    assert directory.disk.surely(directory.path / "install.json") is not None
    directory.rename("state", "state.old")
    assert directory.problems == []


def test_an_end_that_an_earlier_life_has_not_made_durable_is_none_of_this_one() -> None:
    directory = Directory()
    directory.decide()
    directory.disk.remove(directory.path / "install.json")
    later = Steps(directory.disk, directory.path, lambda violation: directory.problems.append(violation.rule))
    directory.disk.on_name = later.changes
    directory.rename("state.new", "other")
    assert directory.problems == []


def test_an_installation_that_is_left_half_done() -> None:
    directory = Directory()
    member = SimpleNamespace(
        environment=SimpleNamespace(disk=directory.disk),
        config=SimpleNamespace(data_dir=directory.path),
        raft=SimpleNamespace(id=1),
    )
    with pytest.raises(Violation, match=r"an installation comes to its end: .*state\.new"):
        check_installed(member)  # type: ignore[arg-type]
    directory.rename("state.new", "other")
    check_installed(member)  # type: ignore[arg-type]


# The log


@pytest.mark.parametrize(
    ("shared", "snapshot", "first_index", "rule"),
    [
        (50, None, 51, ""),
        (50, None, 52, "the log keeps what somebody lacks"),
        (90, 50, 51, ""),
        (90, 50, 52, "the log goes on behind a snapshot under way"),
        (5, 3, 52, ""),  # more than the log has to keep
    ],
)
def test_what_a_log_has_to_keep(shared: int, snapshot: int | None, first_index: int, rule: str) -> None:
    member = SimpleNamespace(
        wal=SimpleNamespace(log_mark=LogMark(100, 2, ConfState().encode())),
        raft=SimpleNamespace(id=1, log=SimpleNamespace(first_index=first_index)),
        config=SimpleNamespace(tuning=SimpleNamespace(max_log_bytes=1 << 30, max_entries=80)),
        snapshots=SimpleNamespace(floor=snapshot),
        replica=SimpleNamespace(floor=shared),
    )
    broken = ""
    try:
        check_mark(member, {}, 0)  # type: ignore[arg-type]
    except Violation as violation:
        broken = violation.rule
    assert broken == rule


# The model


class Commands:
    """Has a model execute one command after the other."""

    def __init__(self) -> None:
        self.model = Model()
        self.index = 0

    def execute(self, kind: CommandKind, request: Any, *, seq: int | None = None, incarnation: int = 1) -> list[Any]:
        """The answers that the model expects; one entry with one command."""
        self.index += 1
        batch = encode_batch(7, incarnation, seq or self.index, [(kind, request.SerializeToString())])
        executed = self.model.executed(make_entry(1, self.index, EntryKind.COMMANDS, batch), {})
        assert executed is not None
        return [answer for _, answer in executed.answers.get((7, incarnation), [])]

    def put(self, value: bytes, **settings: Any) -> Any:
        """The answer to a put."""
        (answer,) = self.execute(CommandKind.PUT, PutRequest(key=b"k", value=value, **settings))
        return answer


def test_the_model_counts_revisions_and_versions() -> None:
    commands = Commands()
    assert commands.put(b"", ignore_value=True) == KEY_NOT_FOUND
    assert commands.put(b"a").header.revision == 2
    before = commands.put(b"b", prev_kv=True).prev_kv
    assert (before.value, before.create_revision, before.mod_revision, before.version) == (b"a", 2, 2, 1)
    (deleted,) = commands.execute(CommandKind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k", prev_kv=True))
    assert (deleted.deleted, deleted.header.revision, deleted.prev_kvs[0].version) == (1, 4, 2)
    (nothing,) = commands.execute(CommandKind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k"))
    assert (nothing.deleted, nothing.header.revision) == (0, 4)
    commands.put(b"c")
    found = commands.model.read(RangeRequest(key=b"k"), 5)
    assert found is not None
    assert (found.kvs[0].create_revision, found.kvs[0].version) == (5, 1)


def test_the_model_executes_a_command_once_and_none_behind_a_gap() -> None:
    commands = Commands()
    put = PutRequest(key=b"k", value=b"a")
    assert len(commands.execute(CommandKind.PUT, put, seq=1)) == 1
    assert commands.execute(CommandKind.PUT, put, seq=1) == []
    assert commands.execute(CommandKind.PUT, put, seq=3) == []
    assert len(commands.execute(CommandKind.PUT, put, seq=1, incarnation=2)) == 1
    assert commands.execute(CommandKind.PUT, put, seq=2, incarnation=1) == []
    assert commands.model.revision == 3


def test_the_model_compares_and_decides() -> None:
    commands = Commands()
    commands.put(b"b")

    def holds(**compare: Any) -> bool:
        txn = rpc_pb2.TxnRequest(compare=[Compare(**compare)])
        ((answer),) = commands.execute(CommandKind.TXN, txn)
        return bool(answer.succeeded)

    assert holds(key=b"k", target=Compare.VALUE, result=Compare.LESS, value=b"c")
    assert not holds(key=b"k", target=Compare.VALUE, result=Compare.LESS, value=b"b")
    assert holds(key=b"k", target=Compare.MOD, result=Compare.NOT_EQUAL, mod_revision=1)
    assert holds(key=b"x", target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)
    assert not holds(key=b"x", target=Compare.VALUE, result=Compare.NOT_EQUAL, value=b"c")
    assert holds(key=b"a", range_end=b"z", target=Compare.VERSION, result=Compare.GREATER, version=0)


def test_the_model_refuses_what_was_compacted_and_reads_what_was() -> None:
    commands = Commands()
    for value in (b"a", b"b", b"c"):
        commands.put(value)
    compact = rpc_pb2.CompactionRequest(revision=3)
    assert commands.execute(CommandKind.COMPACT, compact) != [COMPACTED]
    assert commands.execute(CommandKind.COMPACT, compact) == [COMPACTED]
    request = RangeRequest(key=b"a", range_end=b"z", revision=3)
    found = commands.model.read(request, 3)
    assert found is not None
    found.header.revision = 4
    assert [kv.value for kv in found.kvs] == [b"b"]
    body = found.SerializeToString()
    check_read(commands.model, request, body, 3)
    with pytest.raises(Violation, match="4 was compacted before"):
        check_read(commands.model, request, body, 4)
    found.kvs[0].version = 9
    with pytest.raises(Violation, match="should be by"):
        check_read(commands.model, request, found.SerializeToString(), 3)
