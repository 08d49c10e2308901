"""Many seeds, on as many processors as there are, or on other machines.

Runs know nothing of each other, so any ``concurrent.futures.Executor`` will do. Seeds are handed out in order and few
in advance, so that a campaign can end at any time; what it found so far is always that of a whole range of seeds but
for the last few.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Protocol, cast

import msgspec

from plasmacloud.base.errors import ConfigError
from plasmacloud.sim.case import Case, case_of_seed
from plasmacloud.sim.simulation import Outcome, Simulation

_AHEAD = 2  # seeds handed out for each processor
_POLL_S = 0.5


class Totals(msgspec.Struct):
    """What a campaign has done."""

    runs: int = 0
    simulated_s: float = 0.0
    steps: int = 0
    elections: int = 0
    commits: int = 0
    answered: int = 0
    undecided: int = 0
    counts: Counter[str] = msgspec.field(default_factory=Counter)
    digests: dict[int, str] = {}
    failures: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        """One more run."""
        self.runs += 1
        self.simulated_s += outcome.simulated_s
        self.steps += outcome.steps
        self.elections += outcome.elections
        self.commits += outcome.commits
        self.answered += outcome.answered
        self.undecided += outcome.undecided
        self.counts.update(outcome.counts)
        self.digests[outcome.seed] = outcome.digest
        if outcome.failed:
            self.failures.append(outcome)

    @property
    def digest(self) -> str:
        """One hash for all runs, whatever the order in which they ended."""
        whole = hashlib.blake2b(digest_size=16)
        for seed in sorted(self.digests):
            whole.update(f"{seed} {self.digests[seed]}\n".encode())
        return whole.hexdigest()


class ClusterClient(Protocol):
    """What is needed of a Dask client."""

    def get_executor(self) -> Executor: ...

    def ncores(self) -> dict[str, int]: ...

    def close(self) -> None: ...


def run_case(case: Case) -> Outcome:
    """One run, in whatever process this is called."""
    return Simulation(case.options, case.faults).run()


def run_seed(seed: int) -> Outcome:
    """One run, in whatever process this is called."""
    return run_case(case_of_seed(seed))


def run_seeds(
    seeds: Iterator[int],
    executor: Executor,
    processors: int,
    *,
    on_outcome: Callable[[Outcome], bool],
    on_idle: Callable[[], bool],
) -> None:
    """Run seeds until there are none left, or a callback says that it is enough by returning False.

    ``on_outcome`` is called with every outcome, in the order in which runs end; ``on_idle`` now and then. What is under
    way at the end is abandoned.
    """
    pending: set[Future[Outcome]] = set()
    go_on = True
    try:
        while go_on:
            while len(pending) < _AHEAD * processors and (seed := next(seeds, None)) is not None:
                pending.add(executor.submit(run_seed, seed))
            if not pending:
                return
            done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for outcome in sorted((future.result() for future in done), key=lambda outcome: outcome.seed):
                go_on = on_outcome(outcome) and go_on
            go_on = on_idle() and go_on
    finally:
        for future in pending:
            future.cancel()


@contextmanager
def processors(jobs: int, dask: str) -> Iterator[tuple[Executor, int]]:
    """Where runs take place, and how many at a time. ``dask``: the address of a scheduler, or empty for this machine.

    Raises `ConfigError`.
    """
    if dask:
        client = _connect(dask)
        try:
            yield client.get_executor(), max(1, sum(client.ncores().values()))
        finally:
            client.close()
        return
    executor = ProcessPoolExecutor(jobs, initializer=_be_quiet)
    try:
        yield executor, jobs
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _connect(address: str) -> ClusterClient:
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            "--dask needs the package distributed, which is not installed",
            hint="pip install distributed, here and on the workers; or use --jobs on this machine",
        ) from error
    try:
        return cast(ClusterClient, distributed.Client(address, timeout=10))
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"cannot reach the Dask scheduler at {address}: {error}") from error


def _be_quiet() -> None:
    """Simulated members have nothing to say to the operator of the simulator; and an interrupt is the parent's."""
    import gc
    import signal

    from plasmacloud.base.logging import silence_logging

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_logging()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)  # a run leaves few cycles behind
