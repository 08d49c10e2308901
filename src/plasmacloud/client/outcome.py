"""What a failed call means for the request: executed or not, and may it be repeated? One table decides.

A status alone does not say. UNAVAILABLE comes from a member that refused before doing anything, and from one that gave
up waiting for a write that is on its way into the log. So three things are judged together: what the connection knows
(`Execution`), what the request does (`Effect`), and the status code with its message.

**The connection knows that the request was not executed** when it never left (connection refused), or the peer said it
did not look at it (REFUSED_STREAM, GOAWAY below the stream): repeat. **The connection does not know** when the request
left and nothing came back: a read may be repeated all the same, for it changes nothing; a write may not.

**The server answered.** A write travels through: admission (is there a leader, is this a voter, is the member not
overloaded, is the request well formed, may this user do it) → proposal → commit → application. What a message proves
follows from where it can be sent. In etcd 3.4 to 3.6:

- *no leader* is sent by the admission check that a client asks for with the ``hasleader`` header, which ours does for
  everything that needs a quorum. *not capable*, *rpc not supported for learner*, *too many requests* (the member's
  applied index lags behind its committed index) and *unhealthy cluster* (membership changes) are admission too. *not
  leader* is the answer to commands that only the leader takes. All of them: not executed.
- *raft proposal dropped* is returned by the consensus core while it has no leader, hands over leadership or is over its
  limit of uncommitted bytes, in each case in place of appending to the log: not executed.
- *request timed out*, alone or with a guess at the reason, is sent when the time for commit and application is over.
  The entry may be in the log of a majority by then: unknown. *server stopped* and *raft: stopped* come from the same
  wait, when the member shuts down: unknown. *leader changed* is sent only to reads today; a write assumes nothing.
- *database space exceeded* is sent both by admission and **after** the application of the very write that passed the
  quota: every member must apply the same entries, so that write is executed and only its answer is an error. The two
  cannot be told apart: unknown.
- Codes that describe the request (invalid argument, not found, failed precondition, out of range, permission denied …)
  are sent by admission, or by application in place of the change, and a transaction is checked whole before its first
  operation: refused, nothing changed. *corrupt cluster* likewise replaces the application.
- *not enough started members* is sent by the check before a membership change is proposed, with the code UNKNOWN, which
  is not what etcd's own table of errors says: refused, nothing changed.
- Every other status (internal, unknown, cancelled, deadline exceeded, resource exhausted because the answer is too
  large to send, an UNAVAILABLE in words nobody knows) can be produced after the write was proposed: unknown.

ChainFire says it in words, on purpose: ``chainfire: not executed: …`` and ``chainfire: outcome unknown: …``.

A message that is not in the table falls to its code, and a code that is not in the table to *unknown*: the table can
only err towards caution.
"""

from enum import Enum
from typing import NamedTuple

from plasmacloud.rpc.status import Execution, RpcError, StatusCode


class Effect(Enum):
    """What executing a request twice would do."""

    READ = "read"  # nothing: reads, read-only transactions, health and status
    WRITE = "write"  # something


class Verdict(Enum):
    """What is known about a failed call."""

    NOT_EXECUTED = "not executed"  # changed nothing; worth another try
    UNKNOWN = "outcome unknown"  # a write that may have been executed
    REFUSED = "refused"  # changed nothing; another try brings the same


class Rule(NamedTuple):
    """A message, whole or its beginning, and what it proves about a write."""

    message: str
    whole: bool
    verdict: Verdict


RULES = (
    Rule("chainfire: not executed:", False, Verdict.NOT_EXECUTED),
    Rule("chainfire: outcome unknown:", False, Verdict.UNKNOWN),
    Rule("etcdserver: no leader", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: not leader", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: not capable", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: rpc not supported for learner", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: too many requests", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: unhealthy cluster", True, Verdict.NOT_EXECUTED),
    Rule("raft proposal dropped", True, Verdict.NOT_EXECUTED),
    Rule("etcdserver: request timed out", False, Verdict.UNKNOWN),
    Rule("etcdserver: leader changed", True, Verdict.UNKNOWN),
    Rule("etcdserver: server stopped", True, Verdict.UNKNOWN),
    Rule("raft: stopped", True, Verdict.UNKNOWN),
    Rule("etcdserver: mvcc: database space exceeded", True, Verdict.UNKNOWN),
    Rule("etcdserver: corrupt cluster", True, Verdict.REFUSED),
    Rule("etcdserver: re-configuration failed due to not enough started members", True, Verdict.REFUSED),
)

REFUSALS = frozenset(
    {
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.PERMISSION_DENIED,
        StatusCode.FAILED_PRECONDITION,
        StatusCode.OUT_OF_RANGE,
        StatusCode.UNIMPLEMENTED,
        StatusCode.UNAUTHENTICATED,
    }
)
"""Codes that describe the request: without a rule of its own, such an answer is a refusal."""

TRANSIENT = frozenset(
    {
        StatusCode.UNAVAILABLE,
        StatusCode.DEADLINE_EXCEEDED,
        StatusCode.CANCELLED,
        StatusCode.ABORTED,
    }
)
"""Codes after which a read is worth another try although the server gave no proof of anything."""


def judge(error: RpcError, effect: Effect) -> Verdict:
    """What is known about a call of this effect that failed with this error."""
    if error.executed is Execution.NOT_EXECUTED:
        return Verdict.NOT_EXECUTED
    if error.executed is Execution.UNKNOWN:
        return Verdict.NOT_EXECUTED if effect is Effect.READ else Verdict.UNKNOWN
    verdict = _judge_answer(error)
    if verdict is Verdict.UNKNOWN and effect is Effect.READ:
        return Verdict.NOT_EXECUTED if error.code in TRANSIENT else Verdict.REFUSED
    return verdict


def _judge_answer(error: RpcError) -> Verdict:
    """What the server's own status proves about a write."""
    text = error.message
    for rule in RULES:
        if text == rule.message if rule.whole else text.startswith(rule.message):
            return rule.verdict
    return Verdict.REFUSED if error.code in REFUSALS else Verdict.UNKNOWN
