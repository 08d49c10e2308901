"""The membership services over a real state machine, without consensus: one member that leads, the others imagined.

What the leader knows of the others is set by the test (`MembershipServer.seen`); the wire, the checks, the commands
and the replicated state are the real ones.
"""

import asyncio
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from dict_store import DictStore

from plasmacloud.chainfire.cluster_services import ClusterService, Waiter
from plasmacloud.chainfire.cluster_state import ClusterState
from plasmacloud.chainfire.commands import encode_batch
from plasmacloud.chainfire.linearizable import LinearizableRead
from plasmacloud.chainfire.member_commands import MEMBERSHIP_KINDS, CommandKind
from plasmacloud.chainfire.members import Publication, found_cluster
from plasmacloud.chainfire.membership_policy import JoinProgress, MembershipPolicy
from plasmacloud.chainfire.membership_view import MembershipView, admit, look
from plasmacloud.chainfire.services import KvService, MaintenanceService
from plasmacloud.chainfire.state_machine import StateMachine
from plasmacloud.raft.state import ProgressStatus, StateRole, Status
from plasmacloud.rpc.server import Server
from plasmacloud.rpc.service import ServiceTable
from plasmacloud.rpc.status import RpcError, StatusCode

TERM = 2


async def _no_snapshot(path: Path) -> None:
    raise RpcError(StatusCode.UNIMPLEMENTED, f"no snapshot for {path.name} here")


class MembershipServer:
    """A replica that is its own quorum. ``seen``: by member id, fields of its raft progress; default: in sync."""

    def __init__(self, founders: str = "n1=127.0.0.1:2380") -> None:
        identity = found_cluster(founders, "t")
        self.member_id = identity.member("n1").id
        self.machine = StateMachine.restore(
            DictStore(),
            cluster_id=identity.cluster_id,
            member_id=self.member_id,
            founding=ClusterState.founded(identity),
        )
        self.machine.skip(1, TERM)
        self.leads = True
        self.compacts = True  # at once, where a member takes its time
        self.seen: dict[int, dict[str, Any]] = {}
        self.policy = MembershipPolicy()
        self.submitted: list[int] = []
        self.endpoint = ""
        self.sheds_command = self.sheds_read = lambda: False
        self._seq = 0

    def publish(self) -> None:
        """All founders have started."""
        for member in self.cluster.members:
            urls = (f"http://{self.endpoint}",) if member.id == self.member_id else (f"http://{member.name}.example:1",)
            self.cluster.publish(Publication(member.id, urls, member.name))

    # -- what the services ask for

    @property
    def cluster(self) -> ClusterState:
        return self.machine.cluster

    @property
    def raft_term(self) -> int:
        return TERM

    @property
    def is_leader(self) -> bool:
        return self.leads

    @property
    def leader_id(self) -> int:
        return self.member_id if self.leads else 0

    @property
    def raft(self) -> Any:
        leader = self.member_id if self.leads else 0
        index = self.machine.applied_index
        return SimpleNamespace(term=TERM, leader_id=leader, commit=index, conf=self.cluster.conf)

    def sheds_command(self) -> bool:
        return False

    def submit(self, kind: int, body: bytes, waiter: Waiter) -> None:
        self.submitted.append(kind)
        if kind in MEMBERSHIP_KINDS:
            kind, body = admit(kind, body, self.membership_view())
        self._seq += 1
        data = encode_batch(self.member_id, 1, self._seq, [(kind, body)])
        index = self.machine.applied_index + 1
        origin = (self.member_id, 1)
        member = kind in MEMBERSHIP_KINDS
        ((_, applied),) = self.machine.apply(index, TERM, data, local_origin=origin, membership=member)
        while self.compacts and not self.machine.store.compact_step():
            pass
        if applied.error is not None:
            waiter.fail(applied.error.code, applied.error.message)
        else:
            waiter.reply(applied.body)
        if self.cluster.conf.joint:
            self.submit(CommandKind.LEAVE_JOINT, b"", _Nobody())

    def read(self, waiter: LinearizableRead) -> None:
        waiter.run()

    def membership_view(self) -> MembershipView:
        return look(self.cluster, self._status(), tick_s=0.01, entry_bytes=100.0)

    def join_progress(self) -> Mapping[int, JoinProgress]:
        return self.policy.progress(self.membership_view())

    async def hand_over(self, target: int, timeout: float) -> bool:
        raise NotImplementedError

    def _status(self) -> Status:
        last = self.machine.applied_index
        healthy = ProgressStatus(
            match=last,
            next=last + 1,
            state="replicate",
            recent_active=True,
            inflight_messages=0,
            inflight_bytes=0,
            pending_snapshot=0,
            last_contact_ticks=1,
        )
        progress = {
            member.id: msgspec.structs.replace(healthy, **self.seen.get(member.id, {}))
            for member in self.cluster.members
        }
        return Status(
            id=self.member_id,
            role=StateRole.LEADER if self.leads else StateRole.FOLLOWER,
            term=TERM,
            vote=self.member_id,
            leader_id=self.member_id if self.leads else 0,
            first_index=1,
            last_index=last,
            durable=last,
            commit=last,
            applied=last,
            conf=self.cluster.conf,
            transferee=0,
            uncommitted_bytes=0,
            progress=progress if self.leads else {},
        )


class _Nobody:
    done = False

    def reply(self, body: bytes) -> None:
        pass

    def fail(self, code: int, message: str) -> None:
        raise AssertionError(message)


NEVER_CAME: dict[str, Any] = {"match": 0, "state": "probe", "last_contact_ticks": 100_000, "recent_active": False}
LAGS: dict[str, Any] = {"match": 1, "state": "probe"}


@contextmanager
def running_membership_server(founders: str = "n1=127.0.0.1:2380") -> Iterator[MembershipServer]:
    """A server on a loop of its own."""
    host = MembershipServer(founders)
    loop = asyncio.new_event_loop()
    table = ServiceTable()

    async def start() -> Server:
        ClusterService(host).register(table)
        KvService(host).register(table)  # type: ignore[arg-type]
        MaintenanceService(
            host,
            size_bytes=lambda: (8192, 4096),
            hand_over_timeout_s=1.0,
            make_snapshot=_no_snapshot,
            directory=Path(tempfile.gettempdir()),
        ).register(table)
        server = Server(table)
        address, port = await server.start("127.0.0.1", 0)
        host.endpoint = f"{address}:{port}"
        host.publish()
        return server

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        server = asyncio.run_coroutine_threadsafe(start(), loop).result(20.0)
        yield host
        asyncio.run_coroutine_threadsafe(server.close(0.0), loop).result(20.0)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20.0)
        loop.close()
