"""Hooks: what they are told, and that nothing they do holds anything up."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from contest import DEADLINE_S

from plasmacloud.base.errors import ConfigError
from plasmacloud.election.hooks import Hook, HookEvent, HookFacts, Hooks, parse_hook

Results = list[tuple[HookEvent, bool]]


def facts(event: HookEvent = HookEvent.ELECTED, number: int = 7) -> HookFacts:
    return HookFacts(event, "jobs", "n1", "n1", f"1.{number}", number, "2026-01-01T00:00:00+00:00")


async def results(hooks: Hooks, seen: Results, count: int) -> Results:
    deadline = time.monotonic() + DEADLINE_S
    while len(seen) < count:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.01)
    await hooks.close()
    return seen


def play(texts: dict[HookEvent, str], fired: list[HookFacts], *, timeout_s: float = 10.0) -> Results:
    """Fire, and wait for as many results."""

    async def main() -> Results:
        seen: Results = []
        parsed = {event: parse_hook(text, what="hook") for event, text in texts.items()}
        hooks = Hooks(
            {event: hook for event, hook in parsed.items() if hook},
            timeout_s=timeout_s,
            on_result=lambda event, well: seen.append((event, well)),
        )
        for each in fired:
            hooks.fire(each)
        return await results(hooks, seen, len(fired))

    return asyncio.run(main())


def test_a_command_gets_its_facts_in_the_environment_and_no_shell(tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_text('#!/bin/sh\nenv > "$1"\nprintf "%s" "$2" > "$1.argument"\necho done\n')
    script.chmod(0o755)
    out = tmp_path / "out"
    assert play({HookEvent.ELECTED: f"{script} {out} '$HOME;ls'"}, [facts()]) == [(HookEvent.ELECTED, True)]
    found = dict(line.partition("=")[::2] for line in out.read_text().splitlines())
    assert found["PLASMA_ELECTION_EVENT"] == "elected"
    assert found["PLASMA_ELECTION_NODE"] == "n1"
    assert found["PLASMA_ELECTION_EPOCH"] == "1.7"
    assert found["PLASMA_ELECTION_EPOCH_NUMBER"] == "7"
    assert (tmp_path / "out.argument").read_text() == "$HOME;ls"


@pytest.mark.parametrize("text", ["/nonexistent/program", "false", "http://127.0.0.1:1/hook", "sh -c 'kill -9 $$'"])
def test_failures_are_counted_and_the_next_hook_runs(text: str) -> None:
    fired = [facts(), facts(HookEvent.DEPOSED)]
    assert play({HookEvent.ELECTED: text, HookEvent.DEPOSED: "true"}, fired) == [
        (HookEvent.ELECTED, False),
        (HookEvent.DEPOSED, True),
    ]


def test_a_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    assert play({HookEvent.ELECTED: f"sh -c 'sleep 1000 & echo $! $$ > {pids}; wait'"}, [facts()], timeout_s=1.0) == [
        (HookEvent.ELECTED, False)
    ]
    deadline = time.monotonic() + DEADLINE_S
    for pid in pids.read_text().split():
        while Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline, pid
            time.sleep(0.01)


def test_a_url_gets_them_as_json() -> None:
    async def main() -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await received.put(head + await reader.readexactly(length))
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        seen: Results = []
        hook = parse_hook(f"http://127.0.0.1:{port}/won?x=1", what="hook")
        assert hook is not None
        hooks = Hooks({HookEvent.ELECTED: hook}, on_result=lambda event, well: seen.append((event, well)))
        hooks.fire(facts())
        head, _, body = (await asyncio.wait_for(received.get(), DEADLINE_S)).partition(b"\r\n\r\n")
        assert head.startswith(b"POST /won?x=1 HTTP/1.1\r\n")
        assert json.loads(body) == {
            "event": "elected",
            "election": "jobs",
            "node": "n1",
            "leader": "n1",
            "epoch": "1.7",
            "epoch_number": 7,
            "at": "2026-01-01T00:00:00+00:00",
        }
        assert await results(hooks, seen, 1) == [(HookEvent.ELECTED, True)]
        server.close()
        await server.wait_closed()

    asyncio.run(main())


def test_when_hooks_are_slower_than_events_the_oldest_are_dropped() -> None:
    async def main() -> None:
        seen: Results = []
        hook = parse_hook("true", what="hook")
        assert hook is not None
        hooks = Hooks({HookEvent.ELECTED: hook}, on_result=lambda event, well: seen.append((event, well)))
        for number in range(20):  # all in one step of the event loop: none of them can run before the last is fired
            hooks.fire(facts(number=number))
        assert [well for _, well in seen] == [False] * 4
        assert await results(hooks, seen, 20) == [(HookEvent.ELECTED, False)] * 4 + [(HookEvent.ELECTED, True)] * 16

    asyncio.run(main())


def test_reading_a_hook() -> None:
    assert parse_hook(" ", what="hook") is None
    assert parse_hook("systemctl start 'my app'", what="hook") == Hook(argv=("systemctl", "start", "my app"))
    with pytest.raises(ConfigError):
        parse_hook("sh -c 'unclosed", what="hook")
    with pytest.raises(ConfigError):
        parse_hook("http://user:secret@host/", what="hook")
