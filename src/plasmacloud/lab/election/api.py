"""What an election server says over HTTP, as far as the lab reads it."""

from typing import TypeVar
from urllib.parse import quote

import msgspec

from plasmacloud.lab.election.http_link import Answer, HttpLink
from plasmacloud.lab.wire import AttemptFailed, Known

T = TypeVar("T")

LEADER = "leader"
LOST = "lost"
HEALTHY = "healthy"
NOT_EXECUTED = "not-executed"


class Status(msgspec.Struct, frozen=True):
    """GET /v1/ha/status: what one server says of itself. ``epoch_number``: of the leader it knows; ``epoch`` is the
    same as text, TIMELINE.NUMBER."""

    node_id: str
    role: str
    leader_id: str = ""
    epoch: str | None = None
    epoch_number: int | None = None
    quorum_health: str = ""
    write_ready: bool = False

    @property
    def leads(self) -> bool:
        return self.role == LEADER


class Quorum(msgspec.Struct, frozen=True):
    """GET /v1/ha/quorum: whether the database can be trusted with a write."""

    quorum_health: str
    write_ready: bool = False
    sync_replicas: int = 0
    min_sync_replicas: int = 0


class Written(msgspec.Struct, frozen=True):
    """The acknowledgement of a fenced write. ``epoch`` as text: TIMELINE.NUMBER."""

    key: str
    value: str
    epoch: str
    version: int

    @property
    def epoch_number(self) -> int:
        return int(self.epoch.rpartition(".")[2])


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457, with the one member that a writer must look at."""

    title: str = ""
    detail: str = ""
    outcome: str = ""


class ServerApi:
    """Calls to one election server, one at a time. Timeouts in seconds; every failure is an `AttemptFailed`."""

    def __init__(self, host: str, port: int) -> None:
        self.link = HttpLink(host, port)

    async def status(self, *, timeout: float) -> Status:
        """What the server says of itself."""
        return _decode(await self.link.request("GET", "/v1/ha/status", timeout=timeout), Status)

    async def quorum(self, *, timeout: float) -> tuple[Quorum, bytes]:
        """The state of the quorum, and the answer as it came."""
        answer = await self.link.request("GET", "/v1/ha/quorum", timeout=timeout)
        return _decode(answer, Quorum), answer.body

    async def write(self, key: str, value: str, *, timeout: float) -> Written:
        """A write fenced by the server's epoch. The error says whether it may have been executed."""
        answer = await self.link.request("PUT", f"/v1/probe/{quote(key, safe='')}", {"value": value}, timeout=timeout)
        return _decode(answer, Written)

    async def get(self, path: str, *, timeout: float) -> Answer:
        """Any other resource; the answer whatever its status code."""
        return await self.link.request("GET", path, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self.link.drop()


def _decode(answer: Answer, kind: type[T]) -> T:
    if not 200 <= answer.status < 300:
        problem = _problem(answer)
        known = Known.NOT_EXECUTED if problem.outcome == NOT_EXECUTED else Known.UNKNOWN
        said = problem.detail or problem.title or "no reason given"
        raise AttemptFailed(f"status {answer.status}: {said}", known, answered=True)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.DecodeError as error:
        raise AttemptFailed(f"an answer that cannot be read: {error}", Known.UNKNOWN, answered=True) from error


def _problem(answer: Answer) -> Problem:
    try:
        return msgspec.json.decode(answer.body, type=Problem)
    except msgspec.DecodeError:
        return Problem()
