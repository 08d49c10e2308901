"""In which order things are said and done when leadership ends, with a session that only takes notes."""

import asyncio

import pytest
from contest import run, until

from plasmacloud.election.candidate import Listener, SessionCandidate, Sighting
from plasmacloud.election.errors import ElectionUnavailable
from plasmacloud.election.leadership import Epoch, Leadership
from plasmacloud.election.timers import Timers


class NoteTaker:
    """Grants everything at once; a keepalive is answered only as long as ``alive``."""

    def __init__(self, notes: list[str], listener: Listener) -> None:
        self.notes = notes
        self.listener = listener
        self.alive = True
        self.number = 0
        self._gone = asyncio.Event()

    async def connect(self) -> None:
        if "cut" in self.notes:
            raise ElectionUnavailable("once is enough")

    async def ask(self) -> bool:
        return True

    async def keepalive(self) -> None:
        if not self.alive:
            await self._gone.wait()
            raise ElectionUnavailable("cut")

    async def raise_epoch(self) -> Epoch:
        return Epoch(1, 1)

    async def release(self, epoch: Epoch) -> None:
        self.notes.append(f"released {epoch}")

    def cut(self) -> None:
        self.notes.append("cut")
        self._gone.set()


class Stage:
    """A candidate on such a session, and one list of everything in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.sessions: list[NoteTaker] = []
        timers = Timers(keepalive=0.02, demote_after=0.1, session_timeout=0.2, lock_timeout=0.05)
        self.candidate = SessionCandidate(self._open, node_id="a", timers=timers, on_change=self._note)
        self.running = asyncio.get_running_loop().create_task(self.candidate.run())

    def _open(self, listener: Listener) -> NoteTaker:
        self.sessions.append(NoteTaker(self.notes, listener))
        return self.sessions[-1]

    def _note(self, view: Leadership) -> None:
        assert view.role is self.candidate.leadership.role, "what is told is what the candidate says"
        self.notes.append(view.role.value)


def test_the_role_changes_before_the_session_is_cut() -> None:
    async def main() -> None:
        stage = Stage()
        await until(lambda: stage.candidate.leadership.leads, "it leads")
        stage.sessions[0].alive = False
        await until(lambda: "cut" in stage.notes, "it gives up")
        assert stage.notes[stage.notes.index("cut") - 1] == "follower"
        await stage.candidate.stop()
        await stage.running

    run(main())


def test_whoever_stops_says_so_before_the_lock_is_given_back() -> None:
    async def main() -> None:
        stage = Stage()
        await until(lambda: stage.candidate.leadership.leads, "it leads")
        await stage.candidate.stop()
        await stage.running
        assert stage.notes[-3:] == ["stopped", "released 1.1", "cut"]

    run(main())


def test_a_newer_epoch_ends_the_leadership(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        stage = Stage()
        await until(lambda: stage.candidate.leadership.leads, "it leads")
        stage.sessions[0].listener.seen(Sighting("b", Epoch(1, 2)))
        assert not stage.candidate.leadership.leads
        assert stage.notes[-2:] == ["follower", "cut"]
        await stage.candidate.stop()
        await stage.running

    run(main())
    assert "epoch 1.2 was committed by b" in capsys.readouterr().out


def test_a_listener_that_fails_keeps_nobody_in_office() -> None:
    async def main() -> None:
        stage = Stage()
        await until(lambda: stage.candidate.leadership.leads, "it leads")
        stage.candidate._on_change = lambda _: 1 / 0  # type: ignore[assignment]
        stage.sessions[0].listener.lost("the cable")
        assert not stage.candidate.leadership.leads
        assert stage.notes[-1] == "cut"
        await stage.candidate.stop()
        await stage.running

    run(main())


def test_resigning_without_leadership_changes_nothing() -> None:
    async def main() -> None:
        stage = Stage()
        assert not await stage.candidate.resign(1.0)
        await until(lambda: stage.candidate.leadership.leads, "it leads")
        assert await stage.candidate.resign(60.0)
        assert not await stage.candidate.resign(60.0)
        await stage.candidate.stop()
        await stage.running

    run(main())
