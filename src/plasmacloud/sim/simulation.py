"""One run: a cluster, its clients, its bad luck, and the recovery.

1. *Safety.* The faults of the schedule happen while clients work. Behind every turn of every member the observer looks.
2. *Liveness.* Faults stop. A majority of intact members is healed while the rest stays broken: it must elect a leader,
   commit and catch up within a bound.
3. *Calm.* Everybody is healed: all members must arrive at the same state.
4. The history of the clients must be linearizable.
"""

import traceback
from collections.abc import Sequence

import msgspec

from plasmacloud.chainfire.running_member import RunningMember
from plasmacloud.sim.clock import NS_PER_S
from plasmacloud.sim.cluster import Cluster
from plasmacloud.sim.injector import Injector
from plasmacloud.sim.liveness import Recovery
from plasmacloud.sim.options import Options
from plasmacloud.sim.schedule import Fault, draw_schedule
from plasmacloud.sim.violation import Violation
from plasmacloud.sim.watchdog import watchdog
from plasmacloud.sim.workload import Workload
from plasmacloud.verify.counterexample import headline, text
from plasmacloud.verify.linearizability import check
from plasmacloud.verify.linearizability_html import page
from plasmacloud.verify.models import VersionedRegister
from plasmacloud.verify.search import Answer

_CHECK_STEPS = 300_000
_SLICE_S = 0.5
_SHOWN_FRAMES = 4


class Outcome(msgspec.Struct, frozen=True):
    """What came of a run. ``rule`` and ``text`` are empty when nothing was violated.

    ``counterexample``, and the same as a page of HTML, ``timeline``: why the clients' history is not linearizable.
    """

    seed: int
    digest: str
    simulated_s: float
    steps: int
    turns: int
    elections: int
    commits: int
    answered: int
    counts: dict[str, int]
    undecided: int = 0  # keys whose history was too much for the checker
    rule: str = ""
    text: str = ""
    last_words: tuple[str, ...] = ()
    counterexample: str = ""
    timeline: str = ""

    @property
    def failed(self) -> bool:
        """Whether a rule was broken."""
        return bool(self.rule)


class Simulation:
    """A run that can be looked into."""

    def __init__(
        self,
        options: Options,
        schedule: Sequence[Fault] | None = None,
        member_class: type[RunningMember] = RunningMember,
    ) -> None:
        """``schedule``: other faults than those of the seed. ``member_class``: what runs, for mutants."""
        self.options = options
        self.cluster = cluster = Cluster(options, member_class)
        self.workload = Workload(
            cluster.world,
            cluster.trace,
            options.workload,
            options.seed,
            cluster.alive,
            cluster.fail,
            cluster.observer.model,
        )
        cluster.on_death = self._on_death
        self.schedule = draw_schedule(options) if schedule is None else list(schedule)
        self.injector = Injector(cluster, self.schedule)
        self.undecided = 0
        self._counterexample = self._timeline = ""

    def run(self) -> Outcome:
        """All of it."""
        with watchdog():
            return self._run()

    def _run(self) -> Outcome:
        cluster = self.cluster
        try:
            self._live()
        except Exception as error:  # noqa: BLE001 - who looks at a member calls its code, too
            where = "".join(traceback.format_exception(error)[-_SHOWN_FRAMES:])
            cluster.fail(Violation("no defect", f"while members were looked at: {error!r}\n{where}"), error)
        finally:
            cluster.world.leave()
        outcome = self._outcome()
        for node in cluster.nodes.values():
            if node.life is not None:
                node.life.loop.kill()
        return outcome

    def _live(self) -> None:
        cluster = self.cluster
        cluster.found()
        cluster.operator.start()
        self.workload.start()
        self.injector.start()
        cluster.world.run(round(self.options.fault_phase_s * NS_PER_S))
        if cluster.violation is None:
            self.injector.stop()
            Recovery(cluster, self.workload).run()
        if cluster.violation is None:
            self._check_history()

    def _on_death(self, node: object) -> None:
        for client in self.workload.clients:
            request = client.request
            if request is not None and request.life.node is node:
                client.member_died(request.life)

    def _check_history(self) -> None:
        self.workload.finish()
        result = check(self.workload.history, VersionedRegister(), max_steps=_CHECK_STEPS)
        self.undecided = sum(part.answer is Answer.UNKNOWN for part in result.parts)
        for example in result.violations():
            self.cluster.fail(Violation("linearizability", headline(example)))
            self._counterexample, self._timeline = text(example), page(result, f"seed {self.options.seed}")
            return

    def _outcome(self) -> Outcome:
        cluster = self.cluster
        violation = cluster.violation
        return Outcome(
            seed=self.options.seed,
            digest=cluster.trace.digest(),
            simulated_s=cluster.world.now_s,
            steps=cluster.world.steps,
            turns=cluster.world.turns,
            elections=cluster.observer.elections,
            commits=cluster.observer.commit,
            answered=self.workload.answered,
            counts=dict(sorted(cluster.trace.counts.items())),
            undecided=self.undecided,
            rule="" if violation is None else violation.rule,
            text="" if violation is None else str(violation),
            last_words=() if violation is None else tuple(cluster.trace.last_words()),
            counterexample=self._counterexample,
            timeline=self._timeline,
        )
