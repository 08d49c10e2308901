"""What the simulator does with a second of processor time: clusters of three under the usual faults.

    python -m bench sim [--seconds 20] [--seeds 5] [--profile]

The runs are those of `plasma sim run` with the options that are drawn most often: a cluster of three, an election
timeout of 300 ms, four clients, and faults of process, network and disk. Time is that of this process, so what else the
machine does counts as little as possible. ``--profile`` shows where it goes.
"""

import argparse
import cProfile
import pstats
import time

from plasmacloud.base.logging import silence_logging
from plasmacloud.sim.options import FaultKind, Options
from plasmacloud.sim.simulation import Simulation

FAULTS = {
    FaultKind.KILL: 12.0,
    FaultKind.POWER: 15.0,
    FaultKind.PAUSE: 12.0,
    FaultKind.PARTITION: 12.0,
    FaultKind.ONE_WAY: 15.0,
    FaultKind.CUT: 8.0,
    FaultKind.SLOW_DISK: 15.0,
}
PROFILE_LINES = 25


def measure(seed: int, fault_phase_s: float) -> tuple[float, float, int, str]:
    """Processor seconds, simulated seconds, steps and the trace hash of one run."""
    options = Options(seed=seed, members=3, fault_phase_s=fault_phase_s, mean_gap_s=FAULTS)
    began = time.process_time()
    outcome = Simulation(options).run()
    took = time.process_time() - began
    if outcome.failed:
        raise SystemExit(f"seed {seed} failed: {outcome.text}")
    return took, outcome.simulated_s, outcome.steps, outcome.digest


def main() -> None:
    parser = argparse.ArgumentParser(description="speed of the simulator", prog="bench sim")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated seconds of faults in each run")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    silence_logging()
    measure(0, 5.0)  # imports, caches
    profile = cProfile.Profile()
    if arguments.profile:
        profile.enable()
    print(f"{'seed':>4}  {'simulated s':>11}  {'CPU s':>6}  {'simulated s / CPU s':>19}  {'steps / CPU s':>13}")
    rows = []
    for seed in range(1, arguments.seeds + 1):
        took, simulated_s, steps, _ = measure(seed, arguments.seconds)
        rows.append((took, simulated_s, steps))
        print(f"{seed:>4}  {simulated_s:>11.1f}  {took:>6.2f}  {simulated_s / took:>19.0f}  {steps / took:>13,.0f}")
    took, simulated_s, steps = (sum(column) for column in zip(*rows, strict=True))
    print(f" all  {simulated_s:>11.1f}  {took:>6.2f}  {simulated_s / took:>19.0f}  {steps / took:>13,.0f}")
    if arguments.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(PROFILE_LINES)


if __name__ == "__main__":
    main()
