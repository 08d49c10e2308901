"""A lane: the commands of one member that have to stay in order among themselves, on their way to the leader.

A member has two. Writes go down the first, many in an entry; changes of membership down the second, one in an entry and
one at a time, so that a change that has to wait holds up no write. Each lane numbers its commands in a session of its
own (see `state_machine`), under an origin of its own.

Pure: the time is an argument (seconds, monotonic).
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.proposals import ProposalQueue

W = TypeVar("W")

RESEND_MIN_S = 0.3
RESEND_MAX_S = 2.0
_NEVER = float("inf")


class Lane(Generic[W]):
    """A `ProposalQueue` with its session, and the clock that says when to send again."""

    def __init__(self, origin: int, incarnation: int, queue: ProposalQueue[W], *, batch_bytes: int) -> None:
        """``batch_bytes``: a batch is closed beyond this size; 0 makes batches of one command."""
        self.session = (origin, incarnation)
        self.queue = queue
        self._batch_bytes = batch_bytes
        self._again_at = _NEVER
        self._again_delay_s = RESEND_MIN_S

    @property
    def has_unsent(self) -> bool:
        """Whether `take` would return something."""
        return self.queue.unsent_count > 0

    def take(self, now: float) -> list[bytes]:
        """Everything unsent, as encoded batches, to be sent to the leader now."""
        batches: list[bytes] = []
        while (batch := self.queue.take(self._batch_bytes)) is not None:
            batches.append(encode_batch(*self.session, batch.first_seq, batch.commands))
        self._expect_progress(now)
        return batches

    def send_again_soon(self) -> None:
        """The leader changed, or the connection to it was lost: everything in flight may be lost too."""
        self._again_at = 0.0
        self._again_delay_s = RESEND_MIN_S

    def put_off(self, now: float) -> None:
        """This member is busy applying entries: that nothing of this lane was executed yet does not mean it is lost."""
        if 0.0 < self._again_at < _NEVER:
            self._again_at = max(self._again_at, now + self._again_delay_s)

    def is_due(self, now: float) -> bool:
        """Whether everything in flight should be sent again."""
        return now >= self._again_at

    def again(self, now: float) -> Iterator[bytes]:
        """Everything in flight, oldest first, as encoded batches. The next time comes later each time."""
        self._again_delay_s = min(self._again_delay_s * 2, RESEND_MAX_S)
        self._again_at = _NEVER
        self._expect_progress(now)
        for batch in self.queue.again(self._batch_bytes):
            yield encode_batch(*self.session, batch.first_seq, batch.commands)

    def progressed(self, now: float) -> None:
        """Commands were executed, and have left the queue."""
        self._again_at = _NEVER
        self._again_delay_s = RESEND_MIN_S
        self._expect_progress(now)

    def _expect_progress(self, now: float) -> None:
        """Unless a command is executed before then, everything in flight is sent again."""
        if self._again_at == _NEVER and self.queue.in_flight_count:
            self._again_at = now + self._again_delay_s
