"""A connection's life as a table: what it waits for, what it still takes, when it is over (RFC 9113: 3, 5.4, 6.8).

An event that the table does not list changes nothing and raises: it would be a mistake of ours, not of the peer,
whose own mistakes are the event FAULT.
"""

from enum import IntEnum
from typing import Final


class ConnectionState(IntEnum):
    """Where a connection is."""

    GREETING = 0
    """A server waits for the client's preface."""
    SETTLING = 1
    """The peer's SETTINGS must come before any other frame."""
    OPEN = 2
    LEAVING = 3
    """The end is announced: the peer should open nothing more, but what crosses that on the wire is served."""
    DRAINING = 4
    """The end is binding: streams above the last GOAWAY are refused, the others finish."""
    FAILED = 5
    """GOAWAY with an error has been sent: whatever still arrives is read and ignored."""
    CLOSED = 6


class ConnectionEvent(IntEnum):
    """What can happen to a connection as a whole."""

    PREFACE = 0
    SETTINGS = 1
    """The first SETTINGS of the peer."""
    ANNOUNCE = 2
    """We announce that we shall close."""
    BIND = 3
    """The peer has seen the announcement."""
    FAULT = 4
    """The peer broke the protocol or a limit, or we have a bug: no more service."""
    LOST = 5


_S, _E = ConnectionState, ConnectionEvent

CONNECTION_TRANSITIONS: Final[dict[tuple[ConnectionState, ConnectionEvent], ConnectionState]] = {
    (_S.GREETING, _E.PREFACE): _S.SETTLING,
    (_S.SETTLING, _E.SETTINGS): _S.OPEN,
    (_S.SETTLING, _E.ANNOUNCE): _S.LEAVING,
    (_S.OPEN, _E.ANNOUNCE): _S.LEAVING,
    (_S.LEAVING, _E.ANNOUNCE): _S.LEAVING,
    (_S.LEAVING, _E.SETTINGS): _S.LEAVING,  # announced before the client's SETTINGS arrived
    (_S.LEAVING, _E.BIND): _S.DRAINING,
    (_S.DRAINING, _E.ANNOUNCE): _S.DRAINING,
    **{(state, _E.FAULT): _S.FAILED for state in (_S.GREETING, _S.SETTLING, _S.OPEN, _S.LEAVING, _S.DRAINING)},
    **{(state, _E.LOST): _S.CLOSED for state in _S},
}


class IllegalConnectionEvent(Exception):
    """An event that the state does not allow."""


def next_connection_state(state: ConnectionState, event: ConnectionEvent) -> ConnectionState:
    """The state after ``event``; raises `IllegalConnectionEvent`."""
    after = CONNECTION_TRANSITIONS.get((state, event))
    if after is None:
        raise IllegalConnectionEvent(f"{event.name} in state {state.name}")
    return after
