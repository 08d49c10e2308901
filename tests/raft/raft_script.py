"""Test scripts: commands with the expected output, and an interpreter that lets replicas talk.

A script is a sequence of cases::

    # comment
    command argument name=value
    ----
    expected output

With ``PLASMA_REWRITE=1`` in the environment, what is expected is replaced by what was said, and a change of behaviour
becomes a diff to review.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from raft_cluster import Node, log_of

from plasmacloud.base.errors import PlasmaError
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message, MessageType
from plasmacloud.raft.raft import Raft, StateRole
from plasmacloud.storage.entry import Entry, EntryKind


class Case(NamedTuple):
    """One command of a script; ``comment`` is what stands before it, as written."""

    line: int
    comment: list[str]
    command: list[str]
    expected: str


def parse(path: Path) -> list[Case]:
    """Read a script."""
    cases: list[Case] = []
    comment: list[str] = []
    command: list[str] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line == "----":
            output = []
            while at < len(lines) and lines[at].strip():
                output.append(lines[at])
                at += 1
            cases.append(Case(at, comment, command, "\n".join(output)))
            comment, command = [], []
        elif line.startswith("#") or not line.strip():
            comment.append(line)
        else:
            command.append(line.strip())
    assert not command, f"{path.name}: a command without ----"
    return cases


def check_or_rewrite(
    path: Path, cases: list[Case], run: Callable[[Case], str], *, last_line_only: bool = False
) -> None:
    """Compare every case with what ``run`` says, or write that down."""
    actual = [run(case) for case in cases]
    if os.environ.get("PLASMA_REWRITE") == "1":
        blocks = [
            "\n".join([*case.comment, *case.command, "----", *([output] if output else []), ""])
            for case, output in zip(cases, actual, strict=True)
        ]
        path.write_text("\n".join(block.strip("\n") + "\n" for block in blocks), encoding="utf-8")
        return
    for case, output in zip(cases, actual, strict=True):
        expected = case.expected.splitlines()[-1] if last_line_only and case.expected else case.expected
        assert output == expected, f"{path.name}:{case.line}: {' / '.join(case.command)}"


def show_entry(entry: Entry) -> str:
    text = f"{entry.index}@{entry.term}"
    return text if entry.kind is EntryKind.EMPTY else f"{text}={entry.data.decode()}"


def show(message: Message) -> str:
    """A message in one line."""
    kind = message.type
    parts = [f"{message.sender}->{message.to} {kind.name}"]
    if message.term:
        parts.append(f"term {message.term}")
    if kind in (MessageType.APPEND, MessageType.COMMIT):
        parts.append(f"after {message.index}@{message.log_term}")
        if message.entries:
            parts.append("[" + " ".join(show_entry(entry) for entry in message.entries) + "]")
        parts.append(f"commit {message.commit}")
    elif kind in (MessageType.VOTE, MessageType.PRE_VOTE):
        parts.append(f"log {message.index}@{message.log_term}" + (" forced" if message.force else ""))
    elif kind in (MessageType.VOTE_RESPONSE, MessageType.PRE_VOTE_RESPONSE):
        parts.append("no" if message.reject else "yes")
    elif kind is MessageType.APPEND_RESPONSE:
        parts.append(f"no, not {message.index}" if message.reject else f"up to {message.index}")
        if message.reject and message.hint_index:
            parts.append(f"but {message.hint_index}@{message.hint_term}")
    elif kind is MessageType.HEARTBEAT:
        parts.append(f"commit {message.commit}")
    elif kind is MessageType.SNAPSHOT:
        parts.append(f"of {message.index}@{message.log_term}")
    elif kind is MessageType.READ_INDEX_RESPONSE:
        parts.append(f"index {message.index}")
    if message.context:
        parts.append(f"context {message.context}")
    return " ".join(parts)


def show_replica(raft: Raft) -> str:
    text = f"{raft.id}: {raft.role.value} term {raft.term} last {raft.last_index} commit {raft.commit}"
    if raft.role is StateRole.FOLLOWER:
        text += f" leader {raft.leader_id}" if raft.leader_id else " no leader"
    return text


def ids(text: str) -> frozenset[int]:
    return frozenset(int(word) for word in text.split(",") if word)


class Conversation:
    """The interpreter. Every command returns what happened; `settle` and `tick` also print what was said."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.cut: set[int] = set()
        self.out: list[str] = []
        self.waiting: list[Message] = []  # messages of writes that `sync` finished
        self.quiet: frozenset[str] = frozenset()

    def run(self, case: Case) -> str:
        self.out = []
        for line in case.command:
            name, *words = line.split()
            positional = [word for word in words if "=" not in word]
            named = dict(word.split("=", 1) for word in words if "=" in word)
            try:
                getattr(self, "do_" + name)(*positional, **named)
            except PlasmaError as error:
                self.out.append(f"error: {error}")
        return "\n".join(self.out)

    def do_cluster(self, voters: str, learners: str = "", outgoing: str = "", quiet: str = "", **settings: str) -> None:
        """Start replicas; ``quiet`` lists message types that are not printed."""
        conf = ConfState(voters=ids(voters), learners=ids(learners), outgoing=ids(outgoing))
        self.quiet = frozenset(quiet.split(","))
        given: dict[str, int] = {key: int(value) for key, value in settings.items()}
        if "pre_vote" in given:
            given["pre_vote"] = bool(given["pre_vote"])
        self.nodes = {id: Node(id, conf, seed=7, **given) for id in sorted(conf.all_members())}

    def do_log(self, id: str, *terms: str) -> None:
        """Give a stopped replica a log with entries of these terms."""
        node = self.nodes[int(id)]
        entries = log_of(*map(int, terms))
        self.nodes[int(id)] = Node(node.id, node.conf, entries=entries, seed=7, **node.settings)

    def do_campaign(self, id: str) -> None:
        self.nodes[int(id)].raft.campaign()

    def do_propose(self, id: str, *values: str) -> None:
        for value in values:
            term, index = self.nodes[int(id)].raft.propose(value.encode())
            self.out.append(f"{index}@{term}={value}")

    def do_read(self, id: str, context: str) -> None:
        self.nodes[int(id)].raft.read_index(int(context))

    def do_transfer(self, id: str, to: str) -> None:
        self.nodes[int(id)].raft.transfer_leader(int(to))

    def do_lost(self, peer: str, *at: str) -> None:
        """The connections with ``peer`` break at the given replicas."""
        for id in at:
            self.nodes[int(id)].raft.peer_lost(int(peer))

    def do_hold(self, *at: str) -> None:
        for id in at:
            self.nodes[int(id)].held = True

    def do_sync(self, *at: str) -> None:
        """A stalled disk finishes its writes and goes on normally."""
        for id in at:
            node = self.nodes[int(id)]
            node.held = False
            self.waiting += node.sync()

    def do_cut(self, *at: str) -> None:
        self.cut |= {int(id) for id in at}

    def do_heal(self) -> None:
        self.cut.clear()

    def do_restart(self, *at: str) -> None:
        for id in at:
            self.nodes[int(id)].restart()

    def do_compact(self, id: str, index: str) -> None:
        self.nodes[int(id)].disk.compact(int(index))

    def do_restore(self, id: str, index: str, term: str) -> None:
        """The shell brings a snapshot."""
        node = self.nodes[int(id)]
        taken = node.raft.restore(int(index), int(term), node.conf)
        self.out.append("taken" if taken else "not needed")

    def do_report(self, id: str, peer: str, result: str) -> None:
        self.nodes[int(id)].raft.report_snapshot(int(peer), result == "ok")

    def do_status(self, *at: str) -> None:
        for id in map(int, at or self.nodes):
            self.out.append(show_replica(self.nodes[id].raft))

    def do_progress(self, id: str) -> None:
        for member, each in self.nodes[int(id)].raft.status().progress.items():
            self.out.append(f"{member}: {each.state} match {each.match} next {each.next}")

    def do_tick(self, *at: str, times: str = "1") -> None:
        for _ in range(int(times)):
            for id in map(int, at or self.nodes):
                self.nodes[id].raft.tick()
            self.do_settle()

    def do_settle(self) -> None:
        """Let everybody talk until nobody has anything to say."""
        for _ in range(200):
            batch, self.waiting = self.waiting, []
            for node in self.nodes.values():
                applied, reads = len(node.applied), len(node.reads)
                batch += node.take()
                if node.applied[applied:]:
                    self.out.append(f"{node.id} applies " + " ".join(map(show_entry, node.applied[applied:])))
                self.out += [f"{node.id} may read {context} at {index}" for context, index in node.reads[reads:]]
            if not batch:
                return
            for message in batch:
                lost = message.sender in self.cut or message.to in self.cut
                if message.type.name not in self.quiet:
                    self.out.append(show(message) + (" (lost)" if lost else ""))
                if not lost:
                    self.nodes[message.to].raft.step(message)
        raise AssertionError("the conversation does not end")
