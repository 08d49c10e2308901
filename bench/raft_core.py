"""What the consensus core costs: propose to commit on three replicas in one process, no disk, no network.

    python bench/raft_core.py [--seconds 1]

Each round proposes ``batch`` entries before the replicas talk, as one iteration of an event loop would. Two rows per
batch size: messages passed as objects, and encoded and decoded as they are between processes. The time is that of all
three replicas together, on one core.
"""

import argparse
import random
import time

from plasmacloud.raft.codec import decode_message, encode_message
from plasmacloud.raft.membership import ConfState
from plasmacloud.raft.messages import Message
from plasmacloud.raft.raft import Config, Raft, StateRole
from plasmacloud.storage.entry import Entry, HardState

DATA_BYTES = 256


class MemoryLog:
    """A stable log without a disk; keeps only what may still be asked for."""

    def __init__(self) -> None:
        self.start = 0
        self.start_term = 0
        self.items: list[Entry] = []

    def first_index(self) -> int:
        return self.start + 1

    def last_index(self) -> int:
        return self.start + len(self.items)

    def term(self, index: int) -> int:
        return self.start_term if index == self.start else self.items[index - self.start - 1].term

    def entries(self, lo: int, hi: int, max_bytes: int) -> list[Entry]:
        return self.items[lo - self.start - 1 : hi - self.start - 1]

    def compact(self, index: int) -> None:
        self.start_term = self.term(index)
        del self.items[: index - self.start]
        self.start = index


class Group:
    """Three replicas that exchange messages in rounds."""

    def __init__(self, *, encoded: bool) -> None:
        conf = ConfState(voters=frozenset({1, 2, 3}))
        self.logs = {id: MemoryLog() for id in (1, 2, 3)}
        self.rafts = {
            id: Raft(Config(id=id), log, HardState(), conf, 0, random.Random(id)) for id, log in self.logs.items()
        }
        self.encoded = encoded
        self.applied = 0
        self.messages = 0

    def settle(self) -> None:
        busy = True
        while busy:
            busy = False
            for id, raft in self.rafts.items():
                if not raft.has_ready():
                    continue
                busy = True
                rd = raft.ready()
                self.logs[id].items += rd.entries
                raft.advance(rd)
                if rd.committed:
                    raft.applied_to(rd.committed[-1].index)
                    if id == 1:
                        self.applied += len(rd.committed)
                self.deliver(rd.messages)
                self.deliver(rd.after_sync)

    def deliver(self, messages: list[Message]) -> None:
        self.messages += len(messages)
        for message in messages:
            if self.encoded:
                message = decode_message(encode_message(message))
            self.rafts[message.to].step(message)

    def measure(self, batch: int, seconds: float) -> tuple[int, int, float]:
        leader = self.rafts[1]
        leader.campaign()
        self.settle()
        assert leader.role is StateRole.LEADER
        data = bytes(DATA_BYTES)
        self.applied = self.messages = 0
        rounds = 0
        begin = time.perf_counter()
        while time.perf_counter() - begin < seconds:
            for _ in range(batch):
                leader.propose(data)
            self.settle()
            rounds += 1
            if rounds % 100 == 0:
                for id, log in self.logs.items():
                    log.compact(self.rafts[id].applied)
        spent = time.perf_counter() - begin
        assert self.applied == rounds * batch
        return self.applied, self.messages, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each row is measured")
    arguments = parser.parse_args()
    print(f"3 replicas, entries of {DATA_BYTES} bytes")
    print(f"{'batch':>6} {'messages':>10} {'entries/s':>12} {'us/entry':>10} {'us/round':>10} {'msgs/round':>11}")
    for encoded in (False, True):
        for batch in (1, 8, 64, 512):
            entries, messages, spent = Group(encoded=encoded).measure(batch, arguments.seconds)
            rounds = entries // batch
            print(
                f"{batch:>6} {'encoded' if encoded else 'objects':>10} {entries / spent:>12,.0f} "
                f"{1e6 * spent / entries:>10.2f} {1e6 * spent / rounds:>10.1f} {messages / rounds:>11.1f}"
            )


if __name__ == "__main__":
    main()
