"""The shape that most scenarios share: steady writes, a fault, wait for service, undo, catch up, read back, again."""

from collections.abc import Callable

from plasmacloud.lab.faults.base import Fault
from plasmacloud.lab.judging import (
    Case,
    check_completed,
    check_fault_landed,
    check_rejoin,
    check_rto,
    check_traffic,
    data_checks,
    outage_distributions,
    write_latencies_ms,
)
from plasmacloud.lab.rig import START_DEADLINE_S, Leadership, Rig
from plasmacloud.lab.scenarios.base import Scenario
from plasmacloud.lab.watcher import WaitedTooLong
from plasmacloud.lab.workload import KEY_PREFIX
from plasmacloud.verify.checks import Check

MakeFault = Callable[[Rig, Leadership], Fault]


async def start_under_load(rig: Rig) -> None:
    """A running cluster with a leader, and the clients writing."""
    await rig.start()
    await rig.stable(timeout=START_DEADLINE_S)
    rig.workload.start()


async def one_trial(rig: Rig, number: int, make_fault: MakeFault, *, restart_at_once: bool = False) -> None:
    """One repetition. ``restart_at_once``: there can be no service before the victims run again."""
    leadership = await rig.begin_trial(number)
    fault = make_fault(rig, leadership)
    fault_ns = await fault.inject(rig)
    if restart_at_once:
        await fault.undo(rig)
    rig.doing("waiting for writes to succeed again")
    if not await rig.resumed(fault_ns):
        raise WaitedTooLong("writes did not succeed again after the fault", hint=rig.watcher.describe())
    await rig.aftermath()
    await rig.end_trial(fault)


class FailoverScenario(Scenario):
    """A fault on running processes, repeated; subclasses say which fault."""

    restart_at_once = False

    def fault(self, rig: Rig, leadership: Leadership) -> Fault:
        """The fault of one trial."""
        raise NotImplementedError

    async def drive(self, rig: Rig) -> None:
        await start_under_load(rig)
        for number in range(1, rig.plan.trials + 1):
            await one_trial(rig, number, self.fault, restart_at_once=self.restart_at_once)
        await rig.finish(KEY_PREFIX)

    def judge(self, case: Case) -> list[Check]:
        return [
            check_rto(case),
            *self.own_checks(case),
            *data_checks(case),
            check_rejoin(case),
            check_fault_landed(case),
            check_traffic(case),
            check_completed(case, case.plan.trials),
        ]

    def own_checks(self, case: Case) -> list[Check]:
        """Checks beyond the common ones."""
        return []

    def distributions(self, case: Case) -> dict[str, list[float]]:
        return {**outage_distributions(case), "write_ms": write_latencies_ms(case)}
