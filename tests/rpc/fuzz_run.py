"""Fuzzes the targets of `fuzz_targets` for a while: ``python tests/rpc/fuzz_run.py [--seconds 60] [TARGET ...]``.

Coverage guides: an input that reaches a line of ``plasmacloud`` that none reached before joins the pool that others are
made from. With the ``atheris`` package installed, ``--atheris TARGET`` hands one target to libFuzzer instead. An input
that breaks a promise is written to the corpus, where the tests replay it from then on.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from fuzz_targets import CORPUS, TARGETS, Target, name_of, seeds

MAX_BYTES = 4096
_SOURCES = str(Path(__file__).resolve().parents[2] / "src" / "plasmacloud")
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\0\0\0\0",
    b"\r\n",
    b"\r\n\r\n",
    b"0",
    b"-1",
    b"{",
    b"\x1f",
)


class Coverage:
    """Which lines of ours ran; `watch` tells whether there were new ones."""

    def __init__(self) -> None:
        self._seen: set[tuple[CodeType, int]] = set()
        self._new = False

    def watch(self, run: Callable[[], None]) -> bool:
        self._new = False
        sys.settrace(self._trace)
        try:
            run()
        finally:
            sys.settrace(None)
        return self._new

    def __len__(self) -> int:
        return len(self._seen)

    def _trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._lines if frame.f_code.co_filename.startswith(_SOURCES) else None

    def _lines(self, frame: FrameType, event: str, argument: Any) -> Any:
        place = (frame.f_code, frame.f_lineno)
        if place not in self._seen:
            self._seen.add(place)
            self._new = True
        return self._lines


def mutated(pool: list[bytes], chance: random.Random) -> bytes:
    """One input made from those of the pool."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 4)):
        position = chance.randint(0, len(data))
        match chance.randrange(7):
            case 0 if data:
                data[position % len(data)] ^= 1 << chance.randrange(8)
            case 1 if data:
                data[position % len(data)] = chance.randrange(256)
            case 2:
                del data[position : position + chance.randint(1, 16)]
            case 3:
                data[position:position] = chance.choice(_INTERESTING)
            case 4:
                data[position:position] = data[position : position + chance.randint(1, 64)]
            case 5:
                other = chance.choice(pool)
                start = chance.randint(0, len(other))
                data[position:position] = other[start : start + chance.randint(1, 200)]
            case _:
                data[position : position + chance.randint(1, 4)] = chance.randbytes(chance.randint(1, 4))
    return bytes(data[:MAX_BYTES])


def fuzz(
    target: Target, start: list[bytes], *, seconds: float, seed: int, tell: Callable[[str], None] = str
) -> Iterator[tuple[int, bytes, Exception]]:
    """Yields (number of the run, input, what went wrong) of each broken promise; ends with the time.

    ``tell`` hears a line about the run at its end.
    """
    chance = random.Random(seed)
    coverage = Coverage()
    pool = list(start) or [b""]
    for data in pool:
        coverage.watch(lambda data=data: target(data))  # type: ignore[misc]
    until = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < until:
        data = mutated(pool, chance)
        runs += 1
        try:
            if coverage.watch(lambda data=data: target(data)):  # type: ignore[misc]
                pool.append(data)
        except Exception as error:  # noqa: BLE001 - that is what we look for
            yield runs, data, error
    tell(f"{runs} inputs, {len(coverage)} lines reached, {len(pool) - len(start)} inputs led to new ones")


def keep(name: str, data: bytes) -> Path:
    """Write an input that broke a promise to the corpus."""
    path = CORPUS / name / name_of(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def run_atheris(name: str, seconds: int) -> None:
    """Hand a target to libFuzzer; does not return."""
    import atheris

    atheris.instrument_all()
    corpus = CORPUS / name
    options = [f"-max_len={MAX_BYTES}", f"-artifact_prefix={corpus}/", f"-max_total_time={seconds}"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[name])
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"one of: {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="altogether")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", metavar="TARGET", choices=TARGETS)
    arguments = parser.parse_args()
    if arguments.atheris:
        run_atheris(arguments.atheris, arguments.seconds)
    names = arguments.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    broken = 0
    for name in names:
        share = arguments.seconds / len(names)
        said: list[str] = []
        run = fuzz(TARGETS[name], seeds(name), seconds=share, seed=arguments.seed, tell=said.append)
        for number, data, error in run:
            broken += 1
            traceback.print_exception(error)
            print(f"{name}: input {number} (seed {arguments.seed}) kept as {keep(name, data)}", flush=True)
            if broken >= 10:
                sys.exit("ten broken promises are enough for one run")
        print(f"{name}: {' '.join(said)}", flush=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
