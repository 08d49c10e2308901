"""What members say to each other.

One flat message type serves every purpose; the table says which fields a type uses besides ``to`` and ``sender``.

============================ ==========================================================================================
APPEND                       term, index + log_term (the entry before ``entries``), entries, commit
APPEND_RESPONSE              term, index (matched up to; or the refused ``index`` if reject), hint_index + hint_term
COMMIT                       term, index + log_term (as APPEND), commit; wants no answer
HEARTBEAT                    term, commit (never above what the follower acknowledged), context (read round)
HEARTBEAT_RESPONSE           term, context
VOTE, PRE_VOTE               term (asked for), index + log_term (last entry), force (leadership transfer),
                             commit + hint_term (an entry known to be committed)
VOTE_RESPONSE, PRE_VOTE_...  term, reject, commit + hint_term (as VOTE)
SNAPSHOT                     term, index + log_term (what it covers), data (encoded ConfState)
PROPOSE                      data; no term
READ_INDEX                   context; no term
READ_INDEX_RESPONSE          term, index, context
TRANSFER_LEADER              context (the member to lead); no term
TIMEOUT_NOW                  term, index + log_term (an entry without which it is void)
============================ ==========================================================================================

COMMIT exists so that a follower learns of a commit at once without the cost of an answer that says nothing: losing it
is harmless, because the next APPEND and HEARTBEAT say the same.
"""

from enum import IntEnum

import msgspec

from plasmacloud.storage.entry import Entry


class MessageType(IntEnum):
    """The kinds of messages. Numbers are part of the wire format."""

    APPEND = 1
    APPEND_RESPONSE = 2
    VOTE = 3
    VOTE_RESPONSE = 4
    PRE_VOTE = 5
    PRE_VOTE_RESPONSE = 6
    HEARTBEAT = 7
    HEARTBEAT_RESPONSE = 8
    SNAPSHOT = 9
    PROPOSE = 10
    READ_INDEX = 11
    READ_INDEX_RESPONSE = 12
    TIMEOUT_NOW = 13
    TRANSFER_LEADER = 14
    COMMIT = 15


TERMLESS = frozenset({MessageType.PROPOSE, MessageType.READ_INDEX, MessageType.TRANSFER_LEADER})
"""Requests that any member may make, whatever term it believes in."""

FROM_LEADER = frozenset({MessageType.APPEND, MessageType.HEARTBEAT, MessageType.SNAPSHOT, MessageType.COMMIT})
"""What only the leader of a term sends: receiving one tells who that is."""


class Message(msgspec.Struct, gc=False):
    """One message. Fields that a type does not use are zero."""

    type: MessageType
    to: int
    sender: int
    term: int = 0
    log_term: int = 0
    index: int = 0
    commit: int = 0
    hint_index: int = 0
    hint_term: int = 0
    context: int = 0
    reject: bool = False
    force: bool = False
    entries: list[Entry] = []
    data: bytes = b""
