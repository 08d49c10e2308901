"""The probe's keys and values in etcd or ChainFire: the fence is one comparison more in the transaction that writes."""

import msgspec

from plasmacloud.client import Client, ClientError, OutcomeUnknown, Txn, get, put
from plasmacloud.client.types import RangeResult
from plasmacloud.election.errors import StaleEpoch
from plasmacloud.election.etcd_keys import PREFIX, TIMELINE, epoch_name, fence
from plasmacloud.election.leadership import Epoch
from plasmacloud.election.probe import WRITE_TIMEOUT_S, ProbeValue, WriteNotExecuted, WriteOutcomeUnknown


class _Stored(msgspec.Struct, frozen=True):
    value: str
    epoch: str


class EtcdProbe:
    """A key of the store for each key. See `plasmacloud.election.probe.Probe`."""

    def __init__(self, backend: str, election: str) -> None:
        self._client = Client(backend.removeprefix("etcd://").rstrip("/").split(","), timeout=WRITE_TIMEOUT_S)
        self._election = election

    async def put(self, key: str, value: str, epoch: Epoch) -> ProbeValue:
        """See `Probe.put`."""
        name = self._name(key)
        data = msgspec.json.encode(_Stored(value, str(epoch)))
        newest = epoch_name(self._election)
        order = Txn().when(fence(self._election, epoch)).then(put(name, data), get(name)).otherwise(get(newest))
        try:
            done = await self._client.txn(order)
        except OutcomeUnknown as error:
            raise WriteOutcomeUnknown(str(error)) from error
        except ClientError as error:
            raise WriteNotExecuted(str(error)) from error
        found = done.responses[-1]
        assert isinstance(found, RangeResult), found
        if not done.succeeded:
            current = Epoch(TIMELINE, found.kvs[0].version) if found.kvs else None
            raise StaleEpoch(self._election, epoch, current)
        return ProbeValue(key, value, str(epoch), found.kvs[0].version)

    async def get(self, key: str) -> ProbeValue | None:
        """See `Probe.get`."""
        try:
            found = await self._client.get(self._name(key))
        except ClientError as error:
            raise WriteNotExecuted(str(error)) from error
        if not found.kvs:
            return None
        stored = msgspec.json.decode(found.kvs[0].value, type=_Stored)
        return ProbeValue(key, stored.value, stored.epoch, found.kvs[0].version)

    async def warm_up(self) -> None:
        """See `Probe.warm_up`: a read opens the connection."""
        await self.get("")

    def _name(self, key: str) -> str:
        return f"{PREFIX}/{self._election}/probe/{key}"
