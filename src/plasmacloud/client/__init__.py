"""The client of ChainFire and etcd that every service, the command line and the lab use.

::

    async with Client(["127.0.0.1:2379", "127.0.0.1:22379"]) as client:
        await client.put("greeting", "hello")
        answer = await client.get("greeting")
        done = await client.txn(Txn().when(missing("lock")).then(put("lock", "me")).otherwise(get("lock")))

`errors` says what a failure proves, `outcome` why.
"""

from plasmacloud.client.calls import NO_RETRY, RetryPolicy
from plasmacloud.client.client import Client, EndpointHealth
from plasmacloud.client.errors import (
    Attempt,
    ClientError,
    Compacted,
    DeadlineExceeded,
    DeadlineNotExecuted,
    DeadlineOutcomeUnknown,
    NotExecuted,
    OutcomeUnknown,
    RequestRefused,
    Unavailable,
)
from plasmacloud.client.ops import (
    Compare,
    CompareTarget,
    Order,
    Relation,
    SortBy,
    Txn,
    create_revision,
    delete,
    exists,
    get,
    lease,
    missing,
    mod_revision,
    put,
    value,
    version,
)
from plasmacloud.client.sync import SyncClient
from plasmacloud.client.types import (
    Alarm,
    AlarmKind,
    ClusterView,
    CompactResult,
    DeleteResult,
    HashKv,
    Header,
    Health,
    Join,
    KeyValue,
    Member,
    MemberAdded,
    MemberList,
    MemberProgress,
    PutResult,
    RangeResult,
    SnapshotChunk,
    Status,
    TxnResult,
)

__all__ = [
    "NO_RETRY",
    "Alarm",
    "AlarmKind",
    "Attempt",
    "Client",
    "ClientError",
    "ClusterView",
    "CompactResult",
    "Compacted",
    "Compare",
    "CompareTarget",
    "DeadlineExceeded",
    "DeadlineNotExecuted",
    "DeadlineOutcomeUnknown",
    "DeleteResult",
    "EndpointHealth",
    "HashKv",
    "Header",
    "Health",
    "Join",
    "KeyValue",
    "Member",
    "MemberAdded",
    "MemberList",
    "MemberProgress",
    "NotExecuted",
    "Order",
    "OutcomeUnknown",
    "PutResult",
    "RangeResult",
    "Relation",
    "RequestRefused",
    "RetryPolicy",
    "SnapshotChunk",
    "SortBy",
    "Status",
    "SyncClient",
    "Txn",
    "TxnResult",
    "Unavailable",
    "create_revision",
    "delete",
    "exists",
    "get",
    "lease",
    "missing",
    "mod_revision",
    "put",
    "value",
    "version",
]
