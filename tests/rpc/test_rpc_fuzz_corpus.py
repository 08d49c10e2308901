"""The corpus replayed, and a short coverage-guided run on top of it; `fuzz_run.py` does the long ones.

``PLASMA_FUZZ_SECONDS`` makes the run of each target longer; it is a second or two by default.
"""

import os
import random
from pathlib import Path

import pytest
from fuzz_run import Coverage, fuzz, mutated
from fuzz_targets import CORPUS, TARGETS, name_of, seeds

SECONDS = float(os.environ.get("PLASMA_FUZZ_SECONDS", "1.5"))
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())


def test_every_target_has_a_corpus() -> None:
    assert {path.parent.name for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_corpus(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run(name: str) -> None:
    seed = random.randrange(1 << 30)
    for number, data, error in fuzz(TARGETS[name], seeds(name), seconds=SECONDS, seed=seed):
        pytest.fail(f"seed {seed}, input {number}, {name_of(data)}: {data!r}: {error!r}")


def test_the_fuzzer_finds_what_is_wrong() -> None:
    """A promise that breaks behind three conditions, none of which chance would meet at once."""
    source = Path(__file__).resolve().parents[2] / "src" / "plasmacloud" / "rpc" / "made_up.py"
    text = (
        "def target(data):\n"
        "    if data[:1] == b'a':\n"
        "        if data[1:2] == b'b':\n"
        "            if data[2:3] == b'c':\n"
        "                raise ValueError('found')\n"
    )
    namespace: dict = {}
    exec(compile(text, str(source), "exec"), namespace)
    found = next(fuzz(namespace["target"], [b"xyz"], seconds=60, seed=1), None)
    assert found is not None
    assert found[1][:3] == b"abc"


def test_coverage_and_mutation_are_repeatable() -> None:
    coverage = Coverage()
    data = seeds("hpack")[0]
    assert coverage.watch(lambda: TARGETS["hpack"](data))
    assert not coverage.watch(lambda: TARGETS["hpack"](data))
    pool = seeds("http1")
    first, second = ([mutated(pool, random.Random(7)) for _ in range(20)] for _ in range(2))
    assert first == second
