"""Addresses, and the order in which endpoints are asked."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plasmacloud.base.errors import ConfigError
from plasmacloud.client.endpoints import Endpoint, EndpointPool, parse_endpoint

A, B, C = (Endpoint(name, 2379) for name in "abc")


def pool(*endpoints: Endpoint, seed: int = 0) -> EndpointPool:
    return EndpointPool(endpoints or (A, B, C), random.Random(seed), backoff_first=1.0, backoff_max=8.0)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:2379", "127.0.0.1", 2379),
        ("node1", "node1", 2379),
        ("http://node1:1234/", "node1", 1234),
        ("http://node1", "node1", 2379),
        (" node1:1 ", "node1", 1),
        ("[::1]:99", "::1", 99),
        ("[::1]", "::1", 2379),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    endpoint = parse_endpoint(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert parse_endpoint(str(endpoint)) == endpoint


def test_tls_is_meant_behind_https_and_where_certificates_are_given() -> None:
    assert parse_endpoint("https://a:1") == Endpoint("a", 1, secure=True)
    assert parse_endpoint("a:1", secure=True) == Endpoint("a", 1, secure=True)
    assert not parse_endpoint("http://a:1").secure
    with pytest.raises(ConfigError, match="certificates are given"):
        parse_endpoint("http://a:1", secure=True)


@pytest.mark.parametrize(
    "text",
    ["", ":2379", "a:0", "a:65536", "a:b", "a:-1", "a:²", "::1", "[::1", "[::1]x", "ftp://a", "a b:1"],
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        parse_endpoint(text)


def test_no_endpoint_is_preferred_at_first() -> None:
    firsts = {pool(seed=seed).order(0.0)[0] for seed in range(50)}
    assert firsts == {A, B, C}


def test_the_one_that_answered_stays_first_and_the_others_follow_in_turn() -> None:
    p = pool()
    p.worked(B)
    assert p.order(0.0) == [B, C, A]


def test_one_that_declines_goes_behind_but_stays() -> None:
    p = pool()
    p.worked(A)
    p.declined(A, "no leader")
    assert p.order(0.0) == [B, C, A]


def test_one_that_broke_is_left_out_until_its_time_is_over() -> None:
    p = pool()
    p.worked(A)
    p.broke(A, 10.0, "refused")
    assert p.order(10.0) == [B, C]
    assert set(p.order(11.01)) == {A, B, C}


def test_it_is_left_out_longer_each_time_up_to_a_limit() -> None:
    p = pool(A, B)
    for longest in (1.0, 2.0, 4.0, 8.0, 8.0):
        p.broke(A, 0.0, "refused")
        assert A not in p.order(0.79 * longest)
        assert A in p.order(longest)
    p.worked(A)
    p.broke(A, 0.0, "refused")
    assert A in p.order(1.0)


def test_when_all_are_broken_all_are_asked_the_longest_waiting_first() -> None:
    p = pool()
    for when, endpoint in enumerate((C, A, B)):
        p.broke(endpoint, 0.5 * when, "refused")
    assert p.order(0.5) == [C, A, B]


events = st.lists(st.tuples(st.sampled_from(["worked", "declined", "broke"]), st.sampled_from([A, B, C])))


@given(events, st.integers(0, 5))
def test_there_is_always_somebody_to_ask_and_nobody_twice(history: list[tuple[str, Endpoint]], seed: int) -> None:
    p = pool(seed=seed)
    for now, (event, endpoint) in enumerate(history):
        match event:
            case "worked":
                p.worked(endpoint)
            case "declined":
                p.declined(endpoint, "no")
            case _:
                p.broke(endpoint, float(now), "gone")
        order = p.order(now + 0.5)
        assert order
        assert len(set(order)) == len(order)
        if event == "worked":
            assert order[0] == endpoint
