"""Split brain: what the judge finds in what was seen, who stays, and two real databases that both take writes."""

import asyncio
import json
import signal
from collections.abc import Iterator

import msgspec
import pytest
from contest import new_server
from server_rig import Rig, eventually, new_name, running_rig

from plasmacloud.election.leadership import Epoch
from plasmacloud.election.split_brain import Claim, HostView, Sight, judge, lasting, split_hosts
from plasmacloud.election.split_brain_recovery import plan_promotion
from plasmacloud.postgres.standby import copy_from, promote

N1 = Claim("n1", "http://n1", True, Epoch(1, 7))
N2 = Claim("n2", "http://n2", False, Epoch(1, 7))
DB = HostView(
    host="db1",
    writable=True,
    timeline=1,
    system_id="77",
    epoch=Epoch(1, 7),
    newest_row=7,
    holder_id="n1",
    lock_pid=100,
    locked_by=100,
    locked_as="election lock jobs n1",
)


def change(view: HostView, **changes: object) -> HostView:
    return msgspec.structs.replace(view, **changes)


def kinds(*claims: Claim, hosts: tuple[HostView, ...] = (DB,)) -> list[str]:
    return [finding.kind for finding in judge(Sight("jobs", claims, hosts))]


def test_where_all_agree_there_is_nothing() -> None:
    assert kinds(N1, N2) == []
    standby = HostView(host="db2", timeline=1, system_id="77", epoch=Epoch(1, 7), newest_row=7, holder_id="n1")
    assert kinds(N1, N2, hosts=(DB, standby)) == []
    assert kinds(N1, N2, hosts=(DB, HostView(host="db2", problem="connection refused"))) == []


def test_a_leader_that_is_gone_contradicts_nothing() -> None:
    assert kinds(N2, hosts=(change(DB, locked_by=0, locked_as=""),)) == []


def test_two_claims() -> None:
    assert kinds(N1, Claim("n2", "http://n2", True, Epoch(1, 7))) == ["two-leaders"]
    assert kinds(N1, Claim("n2", "http://n2", True, Epoch(1, 6))) == ["two-leaders", "epoch-disagreement"]


def test_a_claim_that_the_database_does_not_know() -> None:
    assert kinds(Claim("n1", "http://n1", True, Epoch(1, 8))) == ["epoch-disagreement"]
    assert kinds(N1, hosts=(change(DB, newest_row=9),)) == ["epoch-disagreement"]


def test_a_holder_without_the_lock() -> None:
    nobody = change(DB, locked_by=0, locked_as="")
    assert kinds(N1, hosts=(nobody,)) == ["holder-without-lock"]
    another = change(DB, locked_by=200, locked_as="election lock jobs n2")
    assert kinds(N2, hosts=(another,)) == ["holder-without-lock"]
    stranger = change(DB, locked_by=200, locked_as="psql")
    assert kinds(N2, hosts=(stranger,)) == ["lock-held-by-stranger"]


def test_two_primaries_and_a_fork() -> None:
    old = change(DB, host="db2")
    assert kinds(N1, hosts=(DB, old)) == ["two-primaries"]
    promoted = change(DB, host="db2", timeline=2, epoch=Epoch(2, 8), newest_row=8)
    assert kinds(N1, hosts=(DB, promoted)) == ["epoch-disagreement", "two-primaries", "timeline-fork"]
    following = HostView(host="db2", timeline=2, system_id="77")
    assert kinds(N1, hosts=(DB, following)) == ["timeline-fork"]


def test_only_what_lasts_counts() -> None:
    first = judge(Sight("jobs", (N1, Claim("n2", "http://n2", True, Epoch(1, 6))), (DB,)))
    assert lasting(first, []) == []
    assert lasting(first, first) == first
    assert lasting([], first) == []


def test_who_stays() -> None:
    plan = plan_promotion(Sight("jobs", (N1, Claim("n2", "", True, Epoch(1, 6))), (DB,)))
    assert plan is not None
    assert plan.stays == "n1"
    for claim in (Claim("n2", "", True, Epoch(1, 7)), Claim("n2", "", True, Epoch(1, 9))):
        plan = plan_promotion(Sight("jobs", (N1, claim), (DB,)))
        assert plan is not None
        assert plan.stays == ""
        assert plan.above == max(7, claim.epoch.number if claim.epoch else 0)
    plan = plan_promotion(Sight("jobs", (N1,), (change(DB, locked_by=0),)))
    assert plan is not None
    assert plan.stays == ""
    assert plan_promotion(Sight("jobs", (N1,), (HostView(host="db1", timeline=1),))) is None
    newer = change(DB, host="db2", timeline=2, epoch=Epoch(2, 8), holder_id="n2", locked_as="election lock jobs n2")
    plan = plan_promotion(Sight("jobs", (N1, Claim("n2", "", True, Epoch(2, 8))), (DB, newer)))
    assert plan is not None
    assert (plan.host.host, plan.stays) == ("db2", "n2")


def test_hosts_of_a_url() -> None:
    assert split_hosts("postgres://u:p@h1:1,h2/d?target_session_attrs=primary&passfile=x") == [
        ("h1:1", "postgres://u:p@h1:1/d?passfile=x"),
        ("h2", "postgres://u:p@h2/d?passfile=x"),
    ]
    assert split_hosts("postgres://[::1]:5432/d") == [("[::1]:5432", "postgres://[::1]:5432/d")]


@pytest.fixture
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("split")) as rig:
        yield rig


def order(strategy: str, **more: object) -> bytes:
    return json.dumps({"strategy": strategy, "operator": "ann", "reason": "drill", **more}).encode()


RECOVER = "/v1/ha/split-brain/recover"


def test_a_row_that_names_another_holder_is_found_and_repaired(rig: Rig) -> None:
    leader, follower = rig.pair()
    election = leader.status()["election"]
    assert follower.get("/v1/ha/split-brain") == {"detected": False, "findings": [], "unseen": [], "held": None}
    assert follower.post(RECOVER, order("promote-leader")).json()["type"] == "urn:plasma:problem:nothing-to-recover"
    rig.sql(
        "UPDATE leadership_state SET holder_id = $2, lock_pid = 1 WHERE election = $1 RETURNING 1",
        election,
        follower.node,
    )
    said = follower.get("/v1/ha/split-brain")
    assert said["detected"] is True
    (finding,) = said["findings"]
    assert finding["kind"] == "holder-without-lock"
    assert finding["evidence"]["locked_as"] == f"election lock {election} {leader.node}"
    done = follower.post(RECOVER, order("promote-leader")).json()
    assert done["epoch"] == "1.3"
    assert any("raised the epoch" in action and "1.2" in action for action in done["actions"])
    eventually("one leads again", lambda: leader.leads or follower.leads)
    assert follower.get("/v1/ha/split-brain")["detected"] is False
    rows = rig.sql("SELECT action, outcome FROM ha_audit WHERE election = $1 ORDER BY id", election)
    assert rows[-1] == ("split-brain promote-leader", "done")


def test_elections_are_held_off_until_released(rig: Rig) -> None:
    leader, follower = rig.pair()
    election = leader.status()["election"]
    assert leader.post(RECOVER, order("release")).status == 409
    held = leader.post(RECOVER, order("manual-reconcile", force=True)).json()
    assert held["leader_id"] == ""
    assert held["epoch"] == "1.2"
    eventually("both see it", lambda: all(node.status()["held"] == "by ann: drill" for node in (leader, follower)))
    leader.process.signal(signal.SIGKILL)
    leader.process.wait(20.0)
    third = rig.server("n3", election=election)  # a newcomer is held off as well
    eventually("it was refused", lambda: "held off by ann" in third.log)
    assert not follower.leads
    assert rig.sql("SELECT max(epoch) FROM leader_epochs WHERE election = $1", election) == [(2,)]
    assert follower.post(RECOVER, order("promote-leader", force=True)).json()["type"].endswith(":elections-held")
    released = follower.post(RECOVER, order("release")).json()
    assert released["actions"][0].startswith("released on")
    eventually("one leads", lambda: follower.leads or third.leads)


@pytest.mark.slow
def test_two_databases_that_take_writes(rig: Rig) -> None:
    """A standby is promoted while the old primary lives on: a server on each side leads, and one of them is fenced."""
    standby = new_server(rig.directory, "standby")

    async def copy() -> None:
        await copy_from(rig.postgres, standby)
        await standby.start()

    async def both() -> str:
        await promote(standby)
        return f"postgres://plasma@127.0.0.1:{rig.postgres.port},127.0.0.1:{standby.port}/postgres"

    try:
        asyncio.run(copy())
        election = new_name()
        old = rig.server("n1", election=election)
        old.wait_ready()
        eventually("n1 leads", lambda: old.leads)
        hosts = asyncio.run(both())
        new = rig.server("n2", "--peer", old.url, election=election, backend=standby.url())
        eventually("n2 leads on the other side", lambda: new.leads)
        observer = rig.server("n3", "--peer", old.url, "--peer", new.url, election=election, backend=hosts)
        eventually("n3 answers", observer.status)
        said = observer.get("/v1/ha/split-brain")
        found = {finding["kind"] for finding in said["findings"]}
        assert found == {"two-leaders", "epoch-disagreement", "two-primaries", "timeline-fork"}
        done = observer.post(RECOVER, order("promote-leader")).json()
        assert done["leader_id"] == "n2"
        assert any(f"127.0.0.1:{rig.postgres.port} still takes writes" in action for action in done["actions"])
        eventually("n1 was deposed", lambda: "lost leadership" in old.log)
        assert new.log.count("acquired leadership") == 1
    finally:
        standby.end()
