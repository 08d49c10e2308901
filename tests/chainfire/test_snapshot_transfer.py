"""Snapshot transfers over a link that loses, repeats, reorders and alters frames, and breaks."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plasmacloud.base.errors import StorageError
from plasmacloud.chainfire.snapshot_frames import (
    Abort,
    BadFrame,
    Chunk,
    Done,
    Frame,
    Offer,
    Request,
    decode_frame,
    encode_frame,
)
from plasmacloud.chainfire.snapshot_transfer import Receiver, Sender, TokenBucket, TransferConfig, TransferState
from plasmacloud.storage.incoming import IncomingFile
from plasmacloud.storage.snapshot import DamagedSnapshot, valid_prefix, verify, write_snapshot
from plasmacloud.storage.state import StateStore
from plasmacloud.storage.wal_format import LogMark

LEADER = 7
CONFIG = TransferConfig(chunk_bytes=100, window_bytes=500, repeat_s=1.0, silence_s=30.0)


class Memory:
    """An incoming file in memory. After a restart it may have lost some of its end."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.name = b""
        self.fail: StorageError | None = None

    @property
    def position(self) -> int:
        return len(self.data)

    def begin(self, sha256: bytes, size_bytes: int) -> int:
        if sha256 != self.name:
            self.data, self.name = bytearray(), sha256
        return self.position

    def write(self, data: bytes) -> None:
        if self.fail is not None:
            raise self.fail
        self.data += data


class Link:
    """Two directions of frames, and what goes wrong on them."""

    def __init__(self, rng: random.Random, trouble: float) -> None:
        self.rng, self.trouble = rng, trouble
        self.queues: dict[str, list[tuple[float, bytes]]] = {"to receiver": [], "to sender": []}
        self.chunk_bytes = 0

    def send(self, where: str, frame: Frame, now: float) -> bool:
        data, rng = encode_frame(frame), self.rng
        if isinstance(frame, Chunk):
            self.chunk_bytes += len(frame.data)
        if rng.random() < self.trouble / 3:
            return False  # the buffer is full, or nobody is connected
        if rng.random() < self.trouble:
            return True  # lost
        if rng.random() < self.trouble / 3:
            altered = bytearray(data)
            altered[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(altered)
        for _ in range(2 if rng.random() < self.trouble / 2 else 1):
            late = 0.0 if rng.random() >= self.trouble else rng.random() * 2.0
            self.queues[where].append((now + 0.02 + late, data))
        return True

    def arrived(self, where: str, now: float) -> list[Frame]:
        queue = self.queues[where]
        due = sorted((item for item in queue if item[0] <= now), key=lambda item: item[0])
        self.queues[where] = [item for item in queue if item[0] > now]
        found = []
        for _, data in due:
            try:
                found.append(decode_frame(data))
            except BadFrame:
                continue
        return found

    def cut(self) -> None:
        for queue in self.queues.values():
            queue.clear()


def offer_of(data: bytes, index: int = 5, term: int = 2) -> Offer:
    return Offer(len(data), hashlib.sha256(data).digest(), index, term)


class Transfer:
    """A sender and a receiver on a link, in virtual time."""

    def __init__(self, seed: int, size_bytes: int, trouble: float, config: TransferConfig = CONFIG) -> None:
        self.rng = random.Random(seed)
        self.file = self.rng.randbytes(size_bytes)
        self.config = config
        self.link = Link(self.rng, trouble)
        self.memory = Memory()
        self.now = 100.0
        self.new_sender()
        self.new_receiver()

    def new_sender(self) -> None:
        self.sender = Sender(offer_of(self.file), lambda at, size: self.file[at : at + size], self.now, self.config)
        self.sender_began = self.now
        self.link.chunk_bytes = 0

    def new_receiver(self) -> None:
        self.receiver = Receiver(self.memory, self.config)
        self.verify_at = float("inf")

    def run(self, until: float, step: float = 0.01) -> None:
        while self.now < until and not self.sender.over:
            self.turn()
            self.now += step

    def turn(self) -> None:
        for frame in self.link.arrived("to receiver", self.now):
            self.answer(self.receiver.on_frame(LEADER, frame, self.now))
        self.answer(self.receiver.poll(self.now))
        if self.receiver.state is TransferState.VERIFYING:
            self.verify_at = min(self.verify_at, self.now + 3.0)
            if self.now >= self.verify_at:
                self.verify()
        for frame in self.link.arrived("to sender", self.now):
            self.sender.on_frame(frame, self.now)
        self.sender.poll(self.now, lambda frame: self.link.send("to receiver", frame, self.now))
        self.check()

    def verify(self) -> None:
        self.verify_at = float("inf")
        problem = "" if self.memory.data == self.file else "altered"
        if problem:
            self.memory.name = b""
        self.answer(self.receiver.verified(problem, self.now))

    def answer(self, frames: list[Frame]) -> None:
        for frame in frames:
            self.link.send("to sender", frame, self.now)

    def check(self) -> None:
        sender, config = self.sender, self.config
        assert 0 <= sender.acknowledged <= len(self.file)
        under_way = sum(len(data) for _, data in self.link.queues["to receiver"])
        assert under_way < 200 * (config.window_bytes + 1000)
        if config.rate_bytes_s:
            allowed = config.burst_bytes + config.chunk_bytes
            assert self.link.chunk_bytes <= allowed + config.rate_bytes_s * (self.now - self.sender_began)


# --- whole transfers -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), size_bytes=st.integers(1, 6000), trouble=st.sampled_from([0.0, 0.05, 0.3, 0.6]))
@settings(max_examples=60, deadline=None)
def test_over_any_link_the_file_arrives_intact_or_the_transfer_ends_with_a_reason(
    seed: int, size_bytes: int, trouble: float
) -> None:
    transfer = Transfer(seed, size_bytes, trouble)
    until = transfer.now + 3000
    transfer.run(until, step=0.02)
    assert transfer.sender.over, "it neither arrived nor ended"
    if transfer.sender.state is TransferState.DONE:
        assert transfer.memory.data == transfer.file
    else:
        assert transfer.sender.reason
    if trouble <= 0.05:
        assert transfer.sender.state is TransferState.DONE, transfer.sender.reason


@given(seed=st.integers(0, 2**32), events=st.lists(st.sampled_from(["cut", "sender", "receiver", "wait"]), max_size=12))
@settings(max_examples=60, deadline=None)
def test_cut_connections_and_restarts_of_both_sides_cost_only_time(seed: int, events: list[str]) -> None:
    transfer = Transfer(seed, 5000, 0.02)
    for event in events:
        transfer.run(transfer.now + transfer.rng.random() * 0.4)
        before = transfer.memory.position
        if event == "cut":
            transfer.link.cut()
            transfer.sender.connected(transfer.now)
        elif event == "sender":
            transfer.new_sender()
        elif event == "receiver":
            del transfer.memory.data[before - transfer.rng.randrange(200) if before > 200 else before :]
            transfer.new_receiver()
            transfer.sender.connected(transfer.now)
    transfer.run(transfer.now + 120)
    assert transfer.sender.state is TransferState.DONE
    assert transfer.memory.data == transfer.file


def test_a_transfer_goes_on_from_where_it_was() -> None:
    transfer = Transfer(1, 5000, 0.0)
    while transfer.memory.position < 2500:
        transfer.turn()
        transfer.now += 0.01
    transfer.link.cut()
    transfer.new_receiver()
    transfer.new_sender()
    transfer.run(transfer.now + 60)
    assert transfer.sender.state is TransferState.DONE
    assert transfer.link.chunk_bytes <= 2500 + CONFIG.window_bytes


@given(seed=st.integers(0, 2**32), rate=st.sampled_from([200.0, 1000.0, 20_000.0]))
@settings(max_examples=20, deadline=None)
def test_the_rate_is_kept_and_used(seed: int, rate: float) -> None:
    config = TransferConfig(chunk_bytes=100, window_bytes=500, rate_bytes_s=rate, burst_bytes=300)
    transfer = Transfer(seed, 4000, 0.0, config)
    began = transfer.now
    transfer.run(began + 1000)
    assert transfer.sender.state is TransferState.DONE
    took = transfer.now - began - 3.0  # without the verification
    assert took >= (4000 - 400) / rate - 0.1
    assert took <= 4000 / rate + 4.0


# --- the sender ------------------------------------------------------------------------------------------------------


def sent_by(sender: Sender, now: float) -> list[Frame]:
    found: list[Frame] = []
    sender.poll(now, lambda frame: found.append(frame) or True)
    return found


def test_the_offer_is_repeated_and_silence_ends_it() -> None:
    offer = offer_of(b"x" * 1000)
    sender = Sender(offer, lambda at, size: b"x" * size, 0.0, CONFIG)
    assert sent_by(sender, 0.0) == [offer]
    assert sent_by(sender, 0.5) == []
    assert sender.wake_at(0.5) == 1.0
    assert sent_by(sender, 1.0) == [offer]
    assert sent_by(sender, 30.0) == [Abort(offer.transfer, "the receiver was silent for 30.00s")]
    assert sender.state is TransferState.ABORTED
    assert sent_by(sender, 31.0) == []
    assert sender.wake_at(31.0) == float("inf")


def test_nothing_is_read_before_it_may_be_sent() -> None:
    reads: list[int] = []

    def read(at: int, size: int) -> bytes:
        reads.append(size)
        return bytes(size)

    offer = offer_of(bytes(10_000))
    sender = Sender(offer, read, 0.0, CONFIG)
    sender.on_frame(Request(offer.transfer, 0, 250, True), 0.0)
    assert [len(f.data) for f in sent_by(sender, 0.0) if isinstance(f, Chunk)] == [100, 100, 50]
    assert reads == [100, 100, 50]
    assert sent_by(sender, 0.1) == []
    assert sender.wake_at(0.1) == 7.5
    sender.on_frame(Request(offer.transfer, 0, 10**12, False), 0.0)
    assert sum(len(f.data) for f in sent_by(sender, 0.0) if isinstance(f, Chunk)) == 250  # its own window


def test_what_cannot_leave_waits() -> None:
    offer = offer_of(bytes(1000))
    sender = Sender(offer, lambda at, size: bytes(size), 0.0, CONFIG)
    sender.on_frame(Request(offer.transfer, 0, 500, True), 0.0)
    sender.poll(0.0, lambda frame: False)
    assert [f.offset for f in sent_by(sender, 0.0) if isinstance(f, Chunk)] == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("short", [True, False])
def test_a_file_that_cannot_be_read_ends_the_transfer(short: bool) -> None:
    def read(at: int, size: int) -> bytes:
        if short:
            return b""
        raise StorageError("the disk is gone")

    offer = offer_of(bytes(1000))
    sender = Sender(offer, read, 0.0, CONFIG)
    sender.on_frame(Request(offer.transfer, 0, 500, True), 0.0)
    [frame] = sent_by(sender, 0.0)
    assert isinstance(frame, Abort)
    assert ("shorter" if short else "the disk is gone") in sender.reason


def test_impossible_requests_and_foreign_frames() -> None:
    offer = offer_of(bytes(1000))
    sender = Sender(offer, lambda at, size: bytes(size), 0.0, CONFIG)
    for frame in (Done(1), Abort(1, "x"), Request(1, 0, 5, True), offer, Chunk(offer.transfer, 0, b"x")):
        sender.on_frame(frame, 0.0)
        assert sender.state is TransferState.OFFERING
    sender.on_frame(Request(offer.transfer, 1001, 10, True), 0.0)
    assert sender.state is TransferState.ABORTED


def test_the_bucket_never_exceeds_its_burst() -> None:
    bucket = TokenBucket(100.0, 50, 0.0)
    assert bucket.wait_s(1000.0) == 0.0
    bucket.take(150)
    assert 1.0 <= bucket.wait_s(1000.0) < 1.01
    assert bucket.wait_s(900.0) > 0  # a clock that goes back gives nothing
    assert bucket.wait_s(1001.1) == 0.0


# --- the receiver ----------------------------------------------------------------------------------------------------


def receiving(memory: Memory, data: bytes) -> tuple[Receiver, Offer]:
    receiver, offer = Receiver(memory, CONFIG), offer_of(data)
    assert receiver.on_frame(LEADER, offer, 0.0) == [Request(offer.transfer, 0, 500, True)]
    return receiver, offer


def test_missing_pieces_are_asked_for_once_and_again_after_a_while() -> None:
    data = bytes(range(200)) * 5
    receiver, offer = receiving(Memory(), data)
    assert receiver.on_frame(LEADER, Chunk(offer.transfer, 200, data[200:300]), 0.1) == [
        Request(offer.transfer, 0, 500, True)
    ]
    assert receiver.on_frame(LEADER, Chunk(offer.transfer, 300, data[300:400]), 0.1) == []
    assert receiver.poll(1.0) == []
    assert receiver.poll(1.2) == [Request(offer.transfer, 0, 500, True)]
    assert receiver.poll(2.5) == []  # more patience on a slow link
    assert receiver.on_frame(LEADER, Chunk(offer.transfer, 0, data[:100]), 2.6) == []
    assert receiver.received_bytes == 100


def test_a_silent_sender_is_given_up_and_what_arrived_is_kept() -> None:
    data, memory = bytes(1000), Memory()
    receiver, offer = receiving(memory, data)
    receiver.on_frame(LEADER, Chunk(offer.transfer, 0, data[:100]), 1.0)
    [frame] = receiver.poll(31.0)
    assert isinstance(frame, Abort)
    assert "silent" in receiver.reason
    assert receiver.poll(99.0) == []
    assert receiver.wake_at() == float("inf")
    assert receiver.on_frame(LEADER, offer, 100.0) == [Request(offer.transfer, 100, 500, True)]


def test_a_file_that_is_not_what_was_offered_is_fetched_once_more_and_then_refused() -> None:
    data, memory = bytes(50), Memory()
    receiver, offer = receiving(memory, data)
    for attempt in (1, 2):
        receiver.on_frame(LEADER, Chunk(offer.transfer, 0, b"y" * 50), 1.0)
        assert receiver.state is TransferState.VERIFYING
        memory.name = b""  # the verification discarded it
        frames = receiver.verified("wrong hash", 2.0)
        assert isinstance(frames[0], Request if attempt == 1 else Abort)
    assert "not what was offered" in receiver.reason


def test_the_sender_hears_that_the_verification_goes_on() -> None:
    data = bytes(50)
    receiver, offer = receiving(Memory(), data)
    receiver.on_frame(LEADER, Chunk(offer.transfer, 0, data), 0.5)
    assert receiver.wake_at() == 1.5
    assert receiver.poll(100.0) == [Request(offer.transfer, 50, 500, True)]
    assert receiver.on_frame(LEADER, offer, 101.0) == [Request(offer.transfer, 50, 500, True)]
    assert receiver.verified("", 102.0) == [Done(offer.transfer)]
    assert receiver.on_frame(LEADER, offer, 103.0) == [Done(offer.transfer)]  # the first one was lost


def test_a_sender_that_gives_up_behind_its_last_piece_is_no_matter() -> None:
    """Its leadership ended. What is here is verified all the same, also when the next leader offers it once more."""
    data = bytes(50)
    receiver, offer = receiving(Memory(), data)
    receiver.on_frame(LEADER, Chunk(offer.transfer, 0, data), 0.5)
    assert receiver.on_frame(LEADER, Abort(offer.transfer, "this member does not lead any more"), 0.6) == []
    assert receiver.state is TransferState.VERIFYING
    assert receiver.on_frame(LEADER + 1, offer, 0.7) == [Request(offer.transfer, 50, 500, True)]
    assert receiver.verified("", 0.8) == [Done(offer.transfer)]
    assert receiver.sender == LEADER + 1


def test_a_newer_snapshot_replaces_the_one_under_way_and_an_older_one_does_not() -> None:
    receiver, offer = receiving(Memory(), bytes(1000))
    older, newer = offer_of(b"older", index=4), offer_of(b"newer", index=6)
    [frame] = receiver.on_frame(8, older, 1.0)
    assert isinstance(frame, Abort)
    assert receiver.offer == offer
    assert receiver.on_frame(8, newer, 1.0) == [Request(newer.transfer, 0, 500, True)]
    assert (receiver.sender, receiver.offer) == (8, newer)
    assert receiver.on_frame(LEADER, Chunk(offer.transfer, 0, b"x"), 1.0) == []
    assert receiver.received_bytes == 0


def test_a_disk_that_fails_ends_the_transfer_with_its_reason() -> None:
    memory = Memory()
    receiver, offer = receiving(memory, bytes(1000))
    memory.fail = StorageError("the disk is full")
    assert receiver.on_frame(LEADER, Chunk(offer.transfer, 0, bytes(100)), 1.0) == [
        Abort(offer.transfer, "the disk is full")
    ]


# --- frames ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [offer_of(b"x"), Request(1, 2, 3, True), Chunk(1, 2, b"abc"), Done(5), Abort(6, "because")],
)
def test_frames_come_back(frame: Frame) -> None:
    data = encode_frame(frame)
    assert decode_frame(data) == frame
    for end in range(len(data)):
        with pytest.raises(BadFrame):
            decode_frame(data[:end])


@given(st.binary(max_size=100))
def test_garbage_is_no_frame_or_a_harmless_one(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except BadFrame:
        return
    assert encode_frame(frame)[:1] == data[:1]


# --- with files ------------------------------------------------------------------------------------------------------


def snapshot_file(directory: Path, count: int = 3000) -> Path:
    store = StateStore.open(directory / "state", map_bytes=1 << 24)
    store.commit([(b"%06d" % i, random.Random(i).randbytes(300)) for i in range(count)], [], {})
    write_snapshot(store, directory / "snapshot", cluster_id=1, describe=lambda _: LogMark(5, 2, b""))
    store.close()
    return directory / "snapshot"


def test_an_incoming_file_goes_on_after_a_restart_from_its_last_whole_block(tmp_path: Path) -> None:
    snapshot = snapshot_file(tmp_path)
    data, info = snapshot.read_bytes(), verify(snapshot)
    incoming = IncomingFile.open(tmp_path / "incoming")
    assert incoming.begin(info.sha256, info.size_bytes) == 0
    for at in range(0, 600_000, 1000):
        incoming.write(data[at : at + 1000])
    incoming.close()
    part = tmp_path / "incoming" / "incoming.part"
    with part.open("r+b") as file:  # what a power loss leaves of unsynced bytes
        file.seek(590_000)
        file.write(bytes(5000))
    incoming = IncomingFile.open(tmp_path / "incoming")
    assert incoming.position == valid_prefix(part)
    assert 250_000 < incoming.begin(info.sha256, info.size_bytes) <= 590_000
    incoming.write(data[incoming.position :])
    path, found = incoming.finish()
    assert found == info
    assert path.read_bytes() == data
    assert {p.name for p in path.parent.iterdir()} == {path.name}
    incoming.close()


def test_another_snapshot_begins_at_the_beginning(tmp_path: Path) -> None:
    incoming = IncomingFile.open(tmp_path)
    incoming.begin(b"a" * 32, 1000)
    incoming.write(b"x" * 500)
    assert incoming.begin(b"a" * 32, 1000) == 500
    assert incoming.begin(b"b" * 32, 1000) == 0
    incoming.close()
    incoming = IncomingFile.open(tmp_path)
    assert incoming.begin(b"b" * 32, 1000) == 0
    incoming.close()


def test_what_is_not_the_snapshot_offered_is_discarded(tmp_path: Path) -> None:
    snapshot = snapshot_file(tmp_path, 10)
    data, info = snapshot.read_bytes(), verify(snapshot)
    incoming = IncomingFile.open(tmp_path / "incoming")
    for offered, contents, message in (
        (b"z" * 32, data, "another snapshot"),
        (info.sha256, data[:-1] + b"?", "SHA-256"),
    ):
        incoming.begin(offered, len(contents))
        incoming.write(contents)
        with pytest.raises(DamagedSnapshot, match=message):
            incoming.finish()
        assert incoming.position == 0
        assert list((tmp_path / "incoming").iterdir()) == []
    incoming.close()
