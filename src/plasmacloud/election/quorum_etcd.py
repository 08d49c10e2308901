"""Probes of etcd or ChainFire: a linearizable write and read of this server's own key, which only a quorum can do.

The replicas are the store's own affair: it acknowledges nothing that a majority has not on disk. So there are no
synchronous replicas to count, and a store that answers is healthy. The row of a contender is a key with a JSON value
and no lease: its age is judged by what changed between two looks, by this server's monotonic clock.
"""

import asyncio
import contextlib
import time
from typing import Any

import msgspec

from plasmacloud.client import Client, ClientError
from plasmacloud.election.contenders import STOPPED, Contender, Run
from plasmacloud.election.etcd_keys import PREFIX
from plasmacloud.election.quorum import Observation
from plasmacloud.election.quorum_watch import QuorumWatch, WatchConfig


class _Row(msgspec.Struct, frozen=True):
    node_id: str
    url: str
    role: str
    epoch: str
    instance: str = ""
    joined: int = 0


def contenders_prefix(election: str) -> str:
    """Below this, each server has a key."""
    return f"{PREFIX}/{election}/contenders/"


class EtcdWatch(QuorumWatch):
    """See `QuorumWatch`."""

    def __init__(self, config: WatchConfig, **listeners: Any) -> None:
        super().__init__(config, **listeners)
        self._client: Client | None = None
        self._changed: dict[str, tuple[int, float]] = {}  # node: revision of its row, and when that was first seen

    async def observe(self, sent_s: float) -> Observation:
        """One linearizable write."""
        try:
            async with asyncio.timeout(self.config.timeout_s):
                client = self._open()
                began_s = time.monotonic()
                await self._beat(client, self.role())
                write_ms = (time.monotonic() - began_s) * 1000
        except TimeoutError:
            return Observation(sent_s, silence=f"no answer within {self.config.timeout_s:g} s")
        except ClientError as error:
            return Observation(sent_s, refusal=str(error))
        return Observation(sent_s, readable=True, write_ms=write_ms, read=True)

    async def note_down(self) -> None:
        """Hear of the others. Transitions have no place in the store; the log has them."""
        self._unwritten.clear()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                found = await self._open().get(contenders_prefix(self.config.election), prefix=True)
        except (TimeoutError, ClientError):
            return
        known = self._changed
        now_s, rows = time.monotonic(), []
        for kv in found.kvs:
            with contextlib.suppress(msgspec.DecodeError):
                row = msgspec.json.decode(kv.value, type=_Row)
                if known.get(row.node_id, (0, 0.0))[0] != kv.mod_revision:
                    known[row.node_id] = (kv.mod_revision, now_s)
                age_s = now_s - known[row.node_id][1]
                rows.append(Contender(row.node_id, row.url, row.role, row.epoch, age_s))
        self.contenders = tuple(rows)

    async def farewell(self) -> None:
        """Write into this server's key that it has left, if that can be done quickly."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self.config.timeout_s):
                if self.presence.twin is None:  # else the key is the other one's, too, which stays
                    await self._beat(self._open(), STOPPED)
                await self._open().close()

    def _open(self) -> Client:
        if self._client is None:
            endpoints = self.config.backend.removeprefix("etcd://").rstrip("/").split(",")
            self._client = Client(endpoints, timeout=self.config.timeout_s)
        return self._client

    async def _beat(self, client: Client, role: str) -> None:
        config, epoch = self.config, self._leadership().epoch
        own = self.presence
        shown = str(epoch) if epoch is not None else ""
        row = _Row(config.node_id, config.advertise, role, shown, own.instance, own.joined)
        key = contenders_prefix(config.election) + config.node_id
        written = await client.put(key, msgspec.json.encode(row), prev_kv=True)
        before = None
        if written.prev_kv is not None:
            with contextlib.suppress(msgspec.DecodeError):
                found = msgspec.json.decode(written.prev_kv.value, type=_Row)
                before = Run(found.instance, found.url, found.joined)
        own.wrote(before, joined=own.joined or written.header.revision)
