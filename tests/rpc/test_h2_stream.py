"""The stream table against RFC 9113 section 5.1, read the other way round: by what each state forbids."""

import pytest

from plasmacloud.rpc.h2.stream import TRANSITIONS, IllegalStreamEvent, Stream, StreamEvent, StreamState, next_state

S, E = StreamState, StreamEvent

FORBIDDEN = {
    S.IDLE: {E.SEND_DATA, E.RECV_DATA, E.SEND_END, E.RECV_END, E.SEND_RESET, E.RECV_RESET},
    S.OPEN: set(),
    S.HALF_CLOSED_LOCAL: {E.SEND_HEADERS, E.SEND_DATA, E.SEND_END},
    S.HALF_CLOSED_REMOTE: {E.RECV_HEADERS, E.RECV_DATA, E.RECV_END},
    S.CLOSED: {E.SEND_HEADERS, E.RECV_HEADERS, E.SEND_DATA, E.RECV_DATA, E.SEND_END, E.RECV_END},
}


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("event", list(E))
def test_every_state_allows_exactly_what_the_rfc_allows(state: StreamState, event: StreamEvent) -> None:
    assert ((state, event) not in TRANSITIONS) == (event in FORBIDDEN[state])


def test_a_stream_closes_when_both_sides_have_ended_in_either_order() -> None:
    assert next_state(next_state(S.OPEN, E.SEND_END), E.RECV_END) is S.CLOSED
    assert next_state(next_state(S.OPEN, E.RECV_END), E.SEND_END) is S.CLOSED


def test_a_reset_closes_from_every_live_state() -> None:
    for state in (S.OPEN, S.HALF_CLOSED_LOCAL, S.HALF_CLOSED_REMOTE):
        for event in (E.SEND_RESET, E.RECV_RESET):
            assert next_state(state, event) is S.CLOSED


def test_an_illegal_event_raises_and_changes_nothing() -> None:
    class Peer:
        peer_initial_window = 10

    stream = Stream(Peer(), 1, S.HALF_CLOSED_LOCAL)  # type: ignore[arg-type]
    with pytest.raises(IllegalStreamEvent, match="SEND_DATA in state HALF_CLOSED_LOCAL"):
        stream.advance(E.SEND_DATA)
    assert stream.state is S.HALF_CLOSED_LOCAL


def test_nothing_leads_back_to_an_earlier_state() -> None:
    for (before, _), after in TRANSITIONS.items():
        assert after >= before
