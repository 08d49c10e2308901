"""Leases of etcd's v3 API, as far as an election needs them: grant, keep alive, revoke.

The messages are few and flat, so they are written down here field by field (etcd's ``rpc.proto``, service ``Lease``).
Keeping alive is a stream in etcd's API; one request on a stream that ends there is answered once, as a call is.
"""

import random
from collections.abc import Iterator, Sequence

from plasmacloud.client.calls import Caller, RetryPolicy
from plasmacloud.client.endpoints import parse_endpoint
from plasmacloud.client.errors import RequestRefused
from plasmacloud.client.outcome import Effect
from plasmacloud.election.errors import ElectionUnavailable, NoLeases
from plasmacloud.rpc.status import StatusCode

_GRANT = "/etcdserverpb.Lease/LeaseGrant"
_REVOKE = "/etcdserverpb.Lease/LeaseRevoke"
_KEEP_ALIVE = "/etcdserverpb.Lease/LeaseKeepAlive"
_TIME_TO_LIVE = "/etcdserverpb.Lease/LeaseTimeToLive"
_NOBODYS_LEASE = 1


class LeaseClient:
    """Speaks the Lease service of one cluster. Calls raise `ClientError`, and take ``timeout`` seconds at most."""

    def __init__(self, endpoints: Sequence[str], *, timeout: float) -> None:
        parsed = tuple(dict.fromkeys(parse_endpoint(text) for text in endpoints))
        self._caller = Caller(parsed, RetryPolicy(connect_timeout=timeout), random.Random())
        self._timeout = timeout

    async def close(self) -> None:
        """Calls under way fail."""
        await self._caller.close()

    async def check_offered(self) -> None:
        """Raises `NoLeases` where the store has no such service."""
        try:
            await self._call(_TIME_TO_LIVE, {1: _NOBODYS_LEASE}, Effect.READ)
        except RequestRefused as refusal:
            if refusal.code is StatusCode.UNIMPLEMENTED:
                raise NoLeases(
                    "the store offers no leases, on which an election there rests",
                    hint="hold the election in PostgreSQL (postgres://…), or in a store that has them",
                ) from refusal
            if refusal.code is not StatusCode.NOT_FOUND:
                raise

    async def grant(self, ttl_s: int) -> tuple[int, int]:
        """A new lease: its id, and for how many seconds it was granted, which may be longer."""
        answer = await self._call(_GRANT, {1: ttl_s}, Effect.WRITE)
        return answer.get(2, 0), answer.get(3, 0)

    async def keep_alive(self, lease: int) -> int:
        """Renew; returns the seconds to live. Raises `ElectionUnavailable` when the lease is over."""
        answer = await self._call(_KEEP_ALIVE, {1: lease}, Effect.READ)
        ttl_s = answer.get(3, 0)
        if ttl_s <= 0:
            raise ElectionUnavailable(f"lease {lease:x} has expired")
        return ttl_s

    async def revoke(self, lease: int) -> None:
        """End it, and delete its keys."""
        await self._call(_REVOKE, {1: lease}, Effect.WRITE)

    async def _call(self, path: str, fields: dict[int, int], effect: Effect) -> dict[int, int]:
        body = await self._caller.call(
            path, encode_numbers(fields), effect=effect, timeout=self._timeout, require_leader=True
        )
        return decode_numbers(body)


def encode_numbers(fields: dict[int, int]) -> bytes:
    """A message of non-negative int64 fields, by field number."""
    return b"".join(_varint(number << 3) + _varint(value) for number, value in fields.items())


def decode_numbers(data: bytes) -> dict[int, int]:
    """The int64 fields of a message; the rest is skipped. Raises `ElectionUnavailable` for what is no message."""
    try:
        return dict(_numbers(data))
    except IndexError:
        raise ElectionUnavailable("the store's answer is cut off") from None


def _numbers(data: bytes) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield tag >> 3, value - 2**64 if value >= 2**63 else value
        elif kind == 2:
            length, at = _read_varint(data, at)
            at += length
        else:
            raise ElectionUnavailable(f"the store's answer has a field of unknown kind {kind}")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
