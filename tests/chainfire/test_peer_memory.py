"""Who is recognised and who is refused: the memory of the others' lives, and its file."""

import asyncio
import random
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from plasmacloud.base.errors import ExitCode, StorageError
from plasmacloud.chainfire.datadir import Life, next_life
from plasmacloud.chainfire.peer_memory import (
    MAX_REMEMBERED,
    DamagedMemory,
    Evidence,
    Known,
    PeerMemory,
    PeerRegister,
    forgotten,
)
from plasmacloud.rpc.peer_wire import MAX_EARLIER, PeerClaim, Refusal, RefusalCode
from plasmacloud.sim.disk import SimDisk

CLUSTER = 0xC1
MEMBER = 0xA


def claim(birth: int, incarnation: int, *earlier: int, member_id: int = MEMBER) -> PeerClaim:
    return PeerClaim(member_id, birth, incarnation, earlier)


def remembering(*claims: PeerClaim) -> PeerMemory:
    memory = PeerMemory()
    for each in claims:
        assert memory.judge(each) is None
        memory.note(each)
    return memory


def code(refusal: Refusal | None) -> RefusalCode | None:
    return None if refusal is None else refusal.code


# Examples


def test_a_member_never_met_is_welcome() -> None:
    assert PeerMemory().judge(claim(7, 100, 90)) is None


def test_the_next_life_and_the_one_after_a_life_that_was_missed_are_welcome() -> None:
    memory = remembering(claim(7, 100))
    assert memory.judge(claim(7, 200, 100)) is None
    assert memory.judge(claim(7, 300, 200, 100)) is None


def test_the_same_life_may_call_as_often_as_it_likes() -> None:
    memory = remembering(claim(7, 100), claim(7, 200, 100))
    assert memory.judge(claim(7, 200, 100)) is None
    assert not memory.note(claim(7, 200, 100))


def test_another_birth_is_a_replaced_directory() -> None:
    refusal = remembering(claim(7, 100)).judge(claim(8, 200))
    assert code(refusal) is RefusalCode.AMNESIA
    assert refusal is not None
    assert "was replaced" in refusal.reason


def test_a_life_that_continues_an_older_one_is_a_restored_copy() -> None:
    memory = remembering(claim(7, 100), claim(7, 200, 100))
    refusal = memory.judge(claim(7, 300, 100))
    assert code(refusal) is RefusalCode.AMNESIA
    assert refusal is not None
    assert "old copy" in refusal.reason
    assert memory.known(MEMBER) == Known(7, 200), "who is refused changes nothing"


def test_a_restored_copy_does_not_pass_by_being_started_twice() -> None:
    memory = remembering(claim(7, 100), claim(7, 200, 100))
    assert code(memory.judge(claim(7, 300, 100))) is RefusalCode.AMNESIA
    assert code(memory.judge(claim(7, 400, 300, 100))) is RefusalCode.AMNESIA


def test_a_peer_that_was_away_for_longer_than_the_list_of_lives_refuses_nobody() -> None:
    memory = remembering(claim(7, 100))
    lives = range(1000 + MAX_EARLIER, 1000, -1)
    assert memory.judge(claim(7, 9000, *lives)) is None
    assert code(memory.judge(claim(7, 9000, *lives[1:]))) is RefusalCode.AMNESIA
    recent = remembering(claim(7, 1005))
    assert recent.judge(claim(7, 9000, *lives)) is None
    assert code(recent.judge(claim(7, 9000, *(life for life in lives if life != 1005), 99))) is RefusalCode.AMNESIA


def test_a_late_greeting_of_a_dead_process_is_not_taken_for_its_successor() -> None:
    memory = remembering(claim(7, 100), claim(7, 200, 100))
    assert code(memory.judge(claim(7, 100))) is RefusalCode.AMNESIA


def test_a_life_before_its_own_past_is_no_life() -> None:
    assert code(PeerMemory().judge(claim(7, 100, 100))) is RefusalCode.SENDER


def test_the_same_machine_under_a_new_member_id_is_a_new_member() -> None:
    memory = remembering(claim(7, 100))
    assert memory.judge(claim(8, 200, member_id=0xB)) is None


def test_the_replicated_state_stands_in_for_a_memory_that_was_lost() -> None:
    known = Evidence(Known(7, 200))
    assert code(PeerMemory().judge(claim(8, 300), known)) is RefusalCode.AMNESIA
    assert code(PeerMemory().judge(claim(7, 300, 100), known)) is RefusalCode.AMNESIA
    assert PeerMemory().judge(claim(7, 300, 200, 100), known) is None
    assert PeerMemory().judge(claim(7, 200, 100), known) is None


def test_an_incarnation_without_a_birth_is_no_evidence() -> None:
    """As after a backup was restored into new directories: the sessions are of the old ones."""
    assert PeerMemory().judge(claim(7, 300), Evidence(Known(0, 200))) is None


def test_a_former_member_is_told_that_it_is_one() -> None:
    assert code(PeerMemory().judge(claim(7, 100), Evidence(departed=True))) is RefusalCode.REMOVED


def test_the_memory_has_an_end() -> None:
    memory = remembering(*(claim(7, 100, member_id=n + 1) for n in range(MAX_REMEMBERED)))
    stranger = claim(7, 100, member_id=MAX_REMEMBERED + 1)
    assert memory.judge(stranger) is None
    assert not memory.note(stranger)
    assert len(memory) == MAX_REMEMBERED
    assert memory.note(claim(7, 200, 100, member_id=1)), "who is remembered already stays so"


@pytest.mark.parametrize("reason", [RefusalCode.AMNESIA, RefusalCode.REMOVED])
def test_the_refused_member_says_what_happened_and_what_to_do(reason: RefusalCode) -> None:
    error = forgotten("n2", MEMBER, Refusal(reason, "because"))
    assert error.exit_code == ExitCode.CONFIG
    assert "n2" in str(error)
    assert "because" in str(error)
    assert error.hint is not None
    assert "--join" in error.hint
    assert ("member remove a`" in error.hint) == (reason is RefusalCode.AMNESIA)


# Any history


class Started(NamedTuple):
    """A life that began, with everything its disk knew then: itself and the lives it descends from."""

    life: Life
    descent: frozenset[Life]

    @property
    def claim(self) -> PeerClaim:
        return PeerClaim(MEMBER, *self.life)


class Disk(NamedTuple):
    """What is on a member's disk: the last life, and whether there is a log."""

    last: Started | None = None
    has_log: bool = False
    withdrawn: bool = False


class Peer:
    """Someone who judges, with the truth beside: the lives it has let in."""

    def __init__(self) -> None:
        self.memory = PeerMemory()
        self.met: set[Life] = set()


class Histories(RuleBasedStateMachine):
    """One member's disk is started, copied, set back, emptied; its lives meet peers in any order, also late or twice.

    The oracle: a peer refuses a life exactly when that life does not know of another one that the peer has met (or
    that the replicated state tells of). So a healthy member, whose disk knows of every life, is refused by nobody, and
    one that forgot a life is refused by everybody who met that life.
    """

    lives = Bundle("lives")
    copies = Bundle("copies")

    @initialize()
    def begin(self) -> None:
        self.disk = Disk()
        self.began: dict[Life, Started] = {}
        self.peers = [Peer() for _ in range(3)]
        self.published = Known()
        self.in_log: set[Life] = set()
        self.readings: set[int] = set()

    @rule(target=lives, clock=st.integers(1, 10_000), speaks=st.booleans())
    def start(self, clock: int, speaks: bool) -> Started:
        """The clock shows anything, but no nanosecond twice. A first life that dies at once leaves no log."""
        reading = clock * 10**9
        while reading in self.readings:
            reading += 1
        self.readings.add(reading)
        last = self.disk.last
        has_log, withdrawn = self.disk.has_log, self.disk.withdrawn
        life = next_life(last.life if last else None, has_log=has_log, withdrawn=withdrawn, now_ns=reading)
        past = last.descent if last is not None and has_log else frozenset()
        if last is not None and withdrawn:
            past -= {last.life}
        started = Started(life, past | {life})
        self.disk = Disk(started, self.disk.has_log or speaks)
        if speaks:
            self.began[life] = started
        return started

    @rule(target=copies)
    def copy(self) -> Disk:
        return self.disk

    @rule(copy=copies)
    def set_back(self, copy: Disk) -> None:
        self.disk = copy

    @rule()
    def empty(self) -> None:
        self.disk = Disk()

    @rule()
    def lose_the_log(self) -> None:
        self.disk = Disk(self.disk.last, has_log=False)

    @rule(started=lives, which=st.integers(0, 2), up_to_date=st.booleans())
    def meet(self, started: Started, which: int, up_to_date: bool) -> None:
        if started.life not in self.began:
            return  # it died before it could say a word
        peer = self.peers[which]
        evidence = Evidence(self.published) if up_to_date else Evidence()
        witnessed = peer.met | (self.in_log if up_to_date else set())
        refusal = peer.memory.judge(started.claim, evidence)
        assert (refusal is not None) == (not witnessed <= started.descent)
        if refusal is None:
            peer.memory.note(started.claim)
            peer.met.add(started.life)
        elif self.disk.last == started:
            self.disk = self.disk._replace(withdrawn=True)

    @rule(started=lives)
    def publish(self, started: Started) -> None:
        """A life that the log's own witnesses do not contradict tells of itself in the log."""
        if started.life in self.began and self.in_log <= started.descent:
            self.in_log.add(started.life)
            self.published = Known(started.life.birth, max(life.incarnation for life in self.in_log))

    @rule(which=st.integers(0, 2))
    def restart_peer(self, which: int) -> None:
        memory = self.peers[which].memory
        self.peers[which].memory = PeerMemory.decode(memory.encode(CLUSTER), CLUSTER)

    @rule(which=st.integers(0, 2))
    def lose_peers_memory(self, which: int) -> None:
        self.peers[which] = Peer()

    @invariant()
    def newest_is_remembered(self) -> None:
        for peer in getattr(self, "peers", []):
            newest = max((life.incarnation for life in peer.met), default=0)
            assert peer.memory.known(MEMBER).incarnation == newest


Histories.TestCase.settings = settings(max_examples=600, stateful_step_count=40, deadline=None)
TestHistories = Histories.TestCase


# The file


def test_what_is_written_is_read_again() -> None:
    memory = remembering(claim(2**64 - 1, 2**63, 5), claim(7, 100, member_id=2**64 - 1))
    again = PeerMemory.decode(memory.encode(CLUSTER), CLUSTER)
    assert again.known(MEMBER) == Known(2**64 - 1, 2**63)
    assert again.known(2**64 - 1) == Known(7, 100)


def test_what_is_remembered_of_another_cluster_says_nothing_about_this_one() -> None:
    """A forced new cluster has a new id, and its members may begin anew."""
    assert len(PeerMemory.decode(remembering(claim(7, 100)).encode(CLUSTER), CLUSTER + 1)) == 0


def test_any_flipped_bit_is_noticed_or_harmless() -> None:
    memory = remembering(claim(7, 100), claim(8, 200, 100, member_id=0xB))
    data = memory.encode(CLUSTER)
    for at in range(len(data)):
        for bit in (0, 3, 6):
            damaged = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            try:
                read = PeerMemory.decode(damaged, CLUSTER)
            except DamagedMemory:
                continue
            assert [read.known(m) for m in (MEMBER, 0xB)] == [memory.known(m) for m in (MEMBER, 0xB)]


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", b"[1]"])
def test_bytes_that_are_no_memory_are_damaged(content: bytes) -> None:
    with pytest.raises(DamagedMemory):
        PeerMemory.decode(content, CLUSTER)


def open_register(path: Path, fatal: list[Exception]) -> PeerRegister:
    return PeerRegister.open(path, CLUSTER, evidence=lambda _: Evidence(), on_fatal=fatal.append)


async def admitted(register: PeerRegister, *claims: PeerClaim) -> None:
    waits = []
    for each in claims:
        verdict = register.judge(each)
        assert not isinstance(verdict, Refusal)
        if verdict is not None:
            waits.append(verdict)
    for wait in waits:
        await asyncio.wait_for(asyncio.shield(wait), 30)


def test_a_member_is_let_in_when_it_is_remembered_durably(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "peers.json"
        register = open_register(path, [])
        first = register.judge(claim(7, 100))
        assert isinstance(first, asyncio.Future)
        again = register.judge(claim(7, 100))
        assert isinstance(again, asyncio.Future), "its file is still being written"
        late = register.judge(claim(7, 100, member_id=0xB))
        assert isinstance(late, asyncio.Future)
        await asyncio.wait_for(first, 30)
        assert open_register(path, []).memory.known(MEMBER) == Known(7, 100)
        await asyncio.wait_for(again, 30)
        await asyncio.wait_for(late, 30)
        assert open_register(path, []).memory.known(0xB) == Known(7, 100)
        assert register.judge(claim(7, 100)) is None, "nothing is written twice"

    asyncio.run(main())


def test_a_refused_life_is_not_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        register = open_register(tmp_path / "peers.json", [])
        await admitted(register, claim(7, 100), claim(7, 200, 100))
        assert isinstance(register.judge(claim(9, 300)), Refusal)
        assert open_register(tmp_path / "peers.json", []).memory.known(MEMBER) == Known(7, 200)

    asyncio.run(main())


@pytest.mark.parametrize("content", [None, b"", b'{"checksum": "x"}'])
def test_a_lost_or_damaged_file_is_an_empty_memory(tmp_path: Path, content: bytes | None) -> None:
    async def main() -> None:
        path = tmp_path / "peers.json"
        if content is not None:
            path.write_bytes(content)
        register = open_register(path, [])
        assert len(register.memory) == 0
        await admitted(register, claim(7, 100, 90))
        assert open_register(path, []).memory.known(MEMBER) == Known(7, 100)

    asyncio.run(main())


def test_a_disk_that_takes_no_memory_ends_the_member(tmp_path: Path) -> None:
    async def main() -> None:
        fatal: list[Exception] = []
        register = open_register(tmp_path / "gone" / "peers.json", fatal)
        waits = [register.judge(claim(7, 100)), register.judge(claim(7, 100, member_id=0xB))]
        for wait in waits:
            assert isinstance(wait, asyncio.Future)
            with pytest.raises(StorageError, match=r"peers\.json"):
                await asyncio.wait_for(wait, 30)
        assert [type(error) for error in fatal] == [StorageError]
        for late in (claim(7, 100), claim(7, 100, member_id=0xC)):  # while the member comes to its end
            verdict = register.judge(late)
            assert isinstance(verdict, asyncio.Future)
            with pytest.raises(StorageError, match=r"peers\.json"):
                await asyncio.wait_for(verdict, 30)
        assert len(fatal) == 1

    asyncio.run(main())


def test_what_a_life_finds_remembered_survives_a_loss_of_power() -> None:
    """The life before was killed between giving the file its name and syncing that."""
    disk, path = SimDisk(random.Random(1)), Path("/data/peers.json")
    disk.make_directory(path.parent)
    file = disk.create(path)
    file.pwritev([remembering(claim(7, 100)).encode(CLUSTER)], 0)
    file.fsync()
    assert disk.surely(path) is None
    register = PeerRegister.open(path, CLUSTER, evidence=lambda _: Evidence(), on_fatal=lambda _: None, disk=disk)
    assert register.memory.known(MEMBER) == Known(7, 100)
    assert disk.surely(path) is not None
