"""VAL13 as the lab runs it: plan, rig, judgement. What is done is in `drive`, what is checked in `checks`."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from plasmacloud.base.process import free_ports
from plasmacloud.lab.election.judging import (
    check_clean_stops,
    check_client_rto,
    check_fence,
    check_one_leader_per_epoch,
    outage_distributions,
)
from plasmacloud.lab.election.ports import check_free
from plasmacloud.lab.election.rig import POSTGRES, ElectionRig
from plasmacloud.lab.election.servers import ElectionServer
from plasmacloud.lab.election.suite import Suite
from plasmacloud.lab.judging import (
    Case,
    bad_if,
    check_assumptions,
    check_completed,
    check_fault_landed,
    check_integrity,
    check_rpo,
    check_traffic,
    write_latencies_ms,
)
from plasmacloud.lab.plan import Plan
from plasmacloud.lab.recorder import Recorder
from plasmacloud.lab.val13 import names
from plasmacloud.lab.val13.checks import failover_times, ten_checks
from plasmacloud.lab.val13.drive import EpochRow, drive
from plasmacloud.lab.val13.report import reports
from plasmacloud.lab.val13.rule import rule
from plasmacloud.postgres import PostgresServer, find_usable
from plasmacloud.verify.checks import Check, Verdict, combine
from plasmacloud.verify.files import read_lines

if TYPE_CHECKING:
    from plasmacloud.lab.judge import Judgement
    from plasmacloud.lab.planning import Request

HOST = "127.0.0.1"
BASE_FAULTS = 6
_CHECK = re.compile(r"(VAL13-\d\d) ")


class Val13(Suite):
    """Two election servers, one advisory lock, ten checks."""

    name = "val13"
    target = "election"
    must_hold = (
        "the lock has a new holder within 5 s of SIGTERM and SIGKILL, nothing is lost, a lost database is noticed"
    )
    default_trials = 1
    thresholds: ClassVar[Mapping[str, float]] = {
        "failover_max_ms": 5000,
        "rto_max_ms": 5000,
        "quorum_lost_max_s": 30,
    }

    def plan(self, request: "Request") -> Plan:
        ports = names.PORTS if request.port_base is None else (request.port_base, request.port_base + 1)
        check_ports(dict(zip(names.NODES, ports, strict=True)))
        return self.make_plan(request, ports, len(names.NODES), {"server": " ".join(names.SERVER_OPTIONS)})

    def rig(self, plan: Plan, data: Path, recorder: Recorder) -> ElectionRig:
        directory = plan.options["postgres"]
        binaries = find_usable(Path(directory) if directory else None)
        taken = {int(port) for port in plan.options["ports"].split()}
        own = next(port for port in free_ports(len(taken) + 1, HOST) if port not in taken)
        log = recorder.directory / "logs" / "postgres.log"
        postgres = PostgresServer(POSTGRES, binaries, data / "pg", own, log_path=log)
        servers = [
            ElectionServer(
                name,
                number,
                int(port),
                ["--backend", postgres.url(), *plan.options["server"].split()],
                postgres.environment(),
                lambda session, number=number: recorder.directory / names.session_log(number, session),  # type: ignore[misc]
            )
            for number, (name, port) in enumerate(zip(names.NODES, plan.options["ports"].split(), strict=True), 1)
        ]
        return ElectionRig(plan, recorder, postgres, servers, data)

    async def drive(self, rig: ElectionRig) -> None:
        check_ports({name: server.port for name, server in rig.servers.items()})  # time has passed since the plan
        await drive(rig)

    def judge(self, case: Case, directory: Path) -> list[Check]:
        return [
            *ten_checks(case, _files(directory)),
            check_client_rto(case),
            check_rpo(case),
            check_integrity(case),
            check_fence(case),
            check_one_leader_per_epoch(case),
            _check_epochs(directory),
            check_clean_stops(case),
            check_fault_landed(case),
            check_traffic(case),
            check_assumptions(case),
            check_completed(case, BASE_FAULTS + 2 * (case.plan.trials - 1)),
        ]

    def verdict(self, checks: Sequence[Check]) -> Verdict:
        """The rule on the ten checks, or what the others say if that is worse: a lost write is a FAIL in any case."""
        ten = {match[1]: check.verdict for check in checks if (match := _CHECK.match(check.name))}
        others = [check.verdict for check in checks if not _CHECK.match(check.name)]
        return combine([rule(ten).verdict, *others])

    def distributions(self, case: Case, directory: Path) -> dict[str, list[float]]:
        found = failover_times(_files(directory)) | outage_distributions(case)
        found["write_ms"] = write_latencies_ms(case)
        resumptions = (trial.resumed for trial in case.trials if trial.number == names.POSTGRES_TRIAL)
        found["resume_ms"] = [event.waited_ms for event in resumptions if event is not None and event.ok]
        return {name: values for name, values in found.items() if values}

    def reports(self, judgement: "Judgement") -> dict[str, bytes]:
        return reports(judgement)


def check_ports(ports: Mapping[str, int]) -> None:
    """Raise `ConfigError` when a server's port is taken. ``ports``: by server."""
    needed = {port: f"{name} of val13" for name, port in ports.items()}
    check_free(HOST, needed, hint="stop what listens there, or use others: --port-base 28997 takes 28997 and 28998")


def _files(directory: Path) -> dict[str, str]:
    """The evidence files that exist, by name."""
    paths = (directory / name for name in (*names.STEPS, names.MORE_TRIALS))
    return {path.name: path.read_text(encoding="utf-8", errors="replace") for path in paths if path.is_file()}


def _check_epochs(directory: Path) -> Check:
    """Durable epochs: one after the other, none left out, each with a holder that exists."""
    path = directory / names.EPOCHS
    if not path.is_file():
        return Check("epochs", Verdict.INCONCLUSIVE, "not read", "no gap", ("leader_epochs was not read",))
    rows: list[EpochRow] = read_lines(path, EpochRow)
    wrong = [f"after epoch {a.epoch} comes {b.epoch}" for a, b in pairwise(rows) if b.epoch != a.epoch + 1]
    wrong += [f"epoch {row.epoch} is held by {row.holder_id!r}" for row in rows if row.holder_id not in names.NODES]
    verdict, findings = bad_if(wrong if rows else ["leader_epochs is empty"])
    return Check("epochs", verdict, f"{len(rows)} epochs", "no gap", findings)
