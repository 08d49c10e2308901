"""The suite as the lab runs it: plan, rig, judgement. What is done is in the courses, what is checked in `checks`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from plasmacloud.base.process import free_ports
from plasmacloud.lab.election.judging import (
    check_clean_stops,
    check_client_rto,
    check_fence,
    check_one_leader_per_epoch,
)
from plasmacloud.lab.election.ports import check_free
from plasmacloud.lab.election.rig import ElectionRig
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.election.suite import Suite
from plasmacloud.lab.judging import (
    Case,
    check_assumptions,
    check_completed,
    check_fault_landed,
    check_integrity,
    check_linearizable,
    check_rpo,
    check_traffic,
    write_latencies_ms,
)
from plasmacloud.lab.network import Network, choose, make_network
from plasmacloud.lab.network.base import LOOPBACK
from plasmacloud.lab.network.namespaces import SUBNET
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import LOGS, Recorder
from plasmacloud.lab.val13x import names
from plasmacloud.lab.val13x.checks import resume_ms, scenario_checks, step_down_ms, takeover_ms
from plasmacloud.lab.val13x.drive import drive
from plasmacloud.lab.val13x.epoch_rule import check_epochs, check_never_two_leaders, check_one_writer_per_epoch
from plasmacloud.lab.val13x.facts import gather
from plasmacloud.lab.val13x.report import reports
from plasmacloud.lab.val13x.rig import MIN_SYNC, Val13xRig
from plasmacloud.postgres import PostgresServer, find_usable
from plasmacloud.verify.checks import Check, Verdict, combine

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement
    from plasmacloud.lab.planning import Request

PORTS = 4
_RTO_OF = {
    "rto_stop_ms": (names.FREEZE,),
    "rto_partition_ms": (names.CUT,),
    "rto_term_ms": (names.TERM,),
    "rto_kill_ms": (names.KILL,),
    "rto_overtaken_ms": (names.OVERTAKE,),
    "rto_primary_lost_ms": (names.KILL_PRIMARY,),
}
_RESUME_OF = {"resume_pg_stop_ms": names.STOP_POSTGRES, "resume_pg_kill_ms": names.KILL_POSTGRES}
"""From the moment in which the database takes sessions again."""
_WAITED_OF = {"resume_standby_ms": names.KILL_STANDBY, "resume_promoted_ms": names.KILL_PRIMARY}
"""From the start of the standby, and from its promotion."""


class Val13x(Suite):
    """Two election servers, two databases, and a network between them that can be cut."""

    name = "val13x"
    target = "election"
    must_hold = (
        "frozen, cut off, killed, overtaken or without its database: no two leaders write, nothing acknowledged is lost"
    )
    default_trials = 3
    thresholds: ClassVar[dict[str, float]] = {
        "takeover_max_ms": 2000,
        "rto_max_ms": 5000,
        "quorum_lost_max_s": 30,
    }

    def plan(self, request: "Request") -> Plan:
        mechanism, why = choose(request.network)
        scenarios = names.chosen(request.only)
        return self.make_plan(
            request,
            _ports(request.port_base),
            len(names.NODES),
            {"network": mechanism, "network_why": why, "scenarios": " ".join(scenarios)},
            shortened="" if len(scenarios) == len(names.COURSES) else f"val13x: only {', '.join(scenarios)}",
        )

    def rig(self, plan: Plan, data: Path, recorder: Recorder) -> Val13xRig:
        directory = plan.options["postgres"]
        binaries = find_usable(Path(directory) if directory else None)
        http, own = _split(plan)
        services = {names.HOSTS[node]: (port,) for node, port in http.items()} | {names.DATABASE_HOST: own}
        logs = recorder.directory / LOGS
        logs.mkdir(exist_ok=True)
        network = make_network(plan.options["network"], services, logs)
        network.open()
        try:
            inside = network.inside(names.DATABASE_HOST, refuses_root=True)
            listen = network.listen(names.DATABASE_HOST)
            first, second = (
                PostgresServer(
                    name,
                    binaries,
                    data / name,
                    port,
                    log_path=logs / f"{name}.log",
                    settings={} if listen == LOOPBACK else {"listen_addresses": listen},
                    inside=inside,
                    allow=() if listen == LOOPBACK else (f"{SUBNET}.0/24",),
                )
                for name, port in zip(names.DATABASES, own, strict=True)
            )
            servers = [
                _server(network, recorder, node, number, port, first, second)
                for number, (node, port) in enumerate(http.items(), 1)
            ]
            return Val13xRig(plan, recorder, (first, second), servers, data, network)
        except BaseException:
            network.close()
            raise

    async def drive(self, rig: ElectionRig) -> None:
        assert isinstance(rig, Val13xRig)
        await drive(rig)

    def judge(self, case: Case, directory: Path) -> list[Check]:
        gathered = gather(directory)
        scenarios = tuple(case.plan.options["scenarios"].split())
        planned = names.planned_trials(scenarios, case.plan.trials)
        checks = [*scenario_checks(case, gathered)]
        if names.KILLS in scenarios:
            checks += [check_client_rto(case), check_clean_stops(case)]
        checks += [
            check_rpo(case),
            check_integrity(case),
            check_linearizable(case),
            check_fence(case),
            check_one_leader_per_epoch(case),
            check_never_two_leaders(case),
            check_one_writer_per_epoch(case, gathered),
            check_epochs(gathered),
            check_assumptions(case),
            check_completed(case, planned),
        ]
        return checks + ([check_fault_landed(case), check_traffic(case)] if planned else [])

    def verdict(self, checks: Sequence[Check]) -> Verdict:
        """PASS only if all pass."""
        return combine(check.verdict for check in checks)

    def distributions(self, case: Case, directory: Path) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        of_fault = {trial.number: trial.fault.fault for trial in case.trials if trial.fault is not None}
        leaders = [fault for faults in list(_RTO_OF.values())[:4] for fault in faults]
        found["rto_ms"] = [o.gap.length_ms for o in case.outages if of_fault[o.trial] in leaders]
        for name, faults in _RTO_OF.items():
            found[name] = [o.gap.length_ms for o in case.outages if of_fault[o.trial] in faults]
        for name, fault in (("takeover_stop_ms", names.FREEZE), ("takeover_partition_ms", names.CUT)):
            times = [takeover_ms(case, trial) for trial in case.trials if of_fault.get(trial.number) == fault]
            found[name] = [each for each in times if each is not None]
        downs = [step_down_ms(case, trial) for trial in case.trials if of_fault.get(trial.number) == names.CUT]
        found["step_down_ms"] = [each for each in downs if each is not None]
        for name, fault in _RESUME_OF.items():
            times = [resume_ms(case, trial) for trial in case.trials if of_fault.get(trial.number) == fault]
            found[name] = [each for each in times if each is not None]
        for name, fault in _WAITED_OF.items():
            resumptions = (trial.resumed for trial in case.trials if of_fault.get(trial.number) == fault)
            found[name] = [event.waited_ms for event in resumptions if event is not None and event.ok]
        found["write_ms"] = write_latencies_ms(case)
        return {name: values for name, values in found.items() if values}

    def reports(self, judgement: "Judgement") -> dict[str, bytes]:
        return reports(judgement)


def _server(
    network: Network,
    recorder: Recorder,
    node: str,
    number: int,
    port: int,
    first: PostgresServer,
    second: PostgresServer,
) -> ElectionServer:
    """One election server on its host. It knows both databases and takes whichever is the primary."""
    host = names.HOSTS[node]
    ways = [network.reach(host, names.DATABASE_HOST, each.port) for each in (first, second)]
    where = ",".join(f"{address}:{at}" for address, at in ways)
    user, _, rest = first.url().removeprefix("postgres://").partition("@")
    database = rest.partition("/")[2]
    options = ["--backend", f"postgres://{user}@{where}/{database}", MIN_SYNC, "0"]
    listen = network.listen(host)
    if listen != LOOPBACK:
        others = network.reach(host, host, port)
        options += ["--insecure", "--advertise", f"http://{others[0]}:{others[1]}"]
        options += ["--listen", f"{listen}:{port}"]
    return ElectionServer(
        node,
        number,
        port,
        options,
        first.environment(),
        lambda session: recorder.directory / names.session_log(number, session),
        inside=network.inside(host),
    )


def _ports(base: int | None) -> list[int]:
    """Two for the servers, two for the databases. Raises `ConfigError` when one that was asked for is taken."""
    if base is None:
        return free_ports(PORTS)
    ports = list(range(base, base + PORTS))
    what = [*names.NODES, *names.DATABASES]
    check_free(
        LOOPBACK,
        {port: f"{name} of val13x" for port, name in zip(ports, what, strict=True)},
        hint=f"stop what listens there, or use others: --port-base takes {PORTS} ports in a row",
    )
    return ports


def _split(plan: Plan) -> tuple[dict[str, int], tuple[int, ...]]:
    """The servers' ports by name, and those of the databases."""
    ports = [int(port) for port in plan.options["ports"].split()]
    return dict(zip(names.NODES, ports[:2], strict=True)), tuple(ports[2:])
