"""What else happens when leadership is won or lost: a command is run, or a URL is called.

A hook tells somebody; it decides nothing. It runs beside the election and never holds it up: hooks of one server run
one after the other in the order of the events, each within its timeout, and what fails is logged and counted. When
hooks are slower than events, the oldest waiting one is dropped: the newest state is the one to tell.

A command gets its facts in the environment (``PLASMA_ELECTION_EVENT``, ``…_ELECTION``, ``…_NODE``, ``…_LEADER``,
``…_EPOCH``, ``…_EPOCH_NUMBER``, ``…_AT``) and no shell; a URL gets them as the JSON body of a POST, and must answer
with a status below 300.
"""

import asyncio
import contextlib
import os
import shlex
import signal
from collections import deque
from collections.abc import Callable
from enum import StrEnum

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.base.logging import get_logger
from plasmacloud.election.http_client import HttpFailed, Url, fetch, parse_url

DEFAULT_TIMEOUT_S = 5.0
_WAITING = 16
_OUTPUT_BYTES = 4096
_CLOSE_S = 1.0
_LAST_WORDS_S = 0.5  # what the command started may keep its output open

log = get_logger("election")


class HookEvent(StrEnum):
    """When a hook is called."""

    ELECTED = "elected"
    DEPOSED = "deposed"


class HookFacts(msgspec.Struct, frozen=True):
    """What a hook is told. ``epoch`` is the one won or lost; ``at`` is wall-clock UTC, evidence only."""

    event: HookEvent
    election: str
    node: str
    leader: str
    epoch: str
    epoch_number: int
    at: str

    def environment(self) -> dict[str, str]:
        """As variables."""
        return {f"PLASMA_ELECTION_{name.upper()}": str(value) for name, value in msgspec.structs.asdict(self).items()}


class Hook(msgspec.Struct, frozen=True):
    """A command line, taken apart, or a URL."""

    argv: tuple[str, ...] = ()
    url: Url | None = None

    def __str__(self) -> str:
        return self.argv[0] if self.argv else self.url.netloc if self.url else "-"


def parse_hook(text: str, *, what: str) -> Hook | None:
    """Read the text of a flag; empty: no hook. Raises `ConfigError` naming ``what``."""
    if not text.strip():
        return None
    if text.startswith(("http://", "https://")):
        return Hook(url=parse_url(text, what=what))
    try:
        argv = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"{what}: {text!r} cannot be taken apart: {error}", hint="quote it as in a shell") from None
    return Hook(argv=tuple(argv))


class Hooks:
    """Calls the hooks of one server. ``on_result`` counts: it is told the event and whether the call went well."""

    def __init__(
        self,
        hooks: dict[HookEvent, Hook],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        on_result: Callable[[HookEvent, bool], None] = lambda event, well: None,
    ) -> None:
        self._hooks = hooks
        self._timeout_s = timeout_s
        self._on_result = on_result
        self._waiting: deque[tuple[Hook, HookFacts]] = deque()
        self._worker: asyncio.Task[None] | None = None

    def fire(self, facts: HookFacts) -> None:
        """Call the hook of this event soon. Returns at once; call it in the event loop."""
        hook = self._hooks.get(facts.event)
        if hook is None:
            return
        if len(self._waiting) == _WAITING:
            _, dropped = self._waiting.popleft()
            log.warning(
                "hook dropped", hook_event=dropped.event, epoch=dropped.epoch, why="hooks are slower than events"
            )
            self._on_result(dropped.event, False)
        self._waiting.append((hook, facts))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())

    async def close(self) -> None:
        """Let the hooks that wait finish, for a moment; then end them."""
        if self._worker is None:
            return
        await asyncio.wait({self._worker}, timeout=self._timeout_s + _CLOSE_S)
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)

    async def _work(self) -> None:
        while self._waiting:
            hook, facts = self._waiting.popleft()
            try:
                failure = await (self._run(hook, facts) if hook.argv else self._call(hook, facts))
            except Exception as error:  # noqa: BLE001 - whatever a hook does, the election goes on
                failure = f"{type(error).__name__}: {error}"
            self._on_result(facts.event, not failure)
            if failure:
                log.warning("hook failed", hook=str(hook), hook_event=facts.event, epoch=facts.epoch, why=failure)

    async def _call(self, hook: Hook, facts: HookFacts) -> str:
        assert hook.url is not None
        try:
            answer = await fetch("POST", hook.url, body=msgspec.json.encode(facts), timeout_s=self._timeout_s)
        except HttpFailed as error:
            return str(error)
        if answer.status >= 300:
            return f"answered {answer.status}"
        log.info("hook called", hook=str(hook), hook_event=facts.event, epoch=facts.epoch, status=answer.status)
        return ""

    async def _run(self, hook: Hook, facts: HookFacts) -> str:
        try:
            child = await asyncio.create_subprocess_exec(
                *hook.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**os.environ, **facts.environment()},
                start_new_session=True,
            )
        except OSError as error:
            return f"cannot be started: {error.strerror}"
        output = bytearray()
        reading = asyncio.create_task(_keep_reading(child, output))
        try:
            async with asyncio.timeout(self._timeout_s):
                status = await child.wait()
        except TimeoutError:
            return f"still ran after {self._timeout_s:g} s and was killed: {_words(output)}"
        finally:
            _end(child)
            await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        if status:
            return f"ended with status {status}: {_words(output)}"
        log.info("hook ran", hook=str(hook), hook_event=facts.event, epoch=facts.epoch, output=_words(output))
        return ""


async def _keep_reading(child: asyncio.subprocess.Process, output: bytearray) -> None:
    """Empty the pipe, so that the child never waits for us; keep the beginning."""
    assert child.stdout is not None
    while data := await child.stdout.read(_OUTPUT_BYTES):
        output += data[: _OUTPUT_BYTES - len(output)]


def _end(child: asyncio.subprocess.Process) -> None:
    """End the command and what it started: it has a session, and so a process group, of its own."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _words(output: bytes | bytearray) -> str:
    return bytes(output).decode(errors="replace").strip()
