"""`plasma sim run`: what it prints and how it exits."""

import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from plasmacloud.cli.main import cli
from plasmacloud.sim.case import Case
from plasmacloud.sim.network import NetworkOptions
from plasmacloud.sim.options import FaultKind, Options
from plasmacloud.sim.schedule import draw_schedule


def sim(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["sim", "run", *arguments])


def write_case(path: Path, options: Options) -> Path:
    path.write_bytes(Case(options, tuple(draw_schedule(options))).encode())
    return path


def hopeless(path: Path) -> Path:
    """Answers take longer than an election lasts: no leader can stay."""
    return write_case(
        path,
        Options(
            seed=5,
            fault_phase_s=5.0,
            election_timeout_s=0.05,
            heartbeat_interval_s=0.01,
            network=NetworkOptions(delay_s=0.4, jitter_s=0.0),
            mean_gap_s={FaultKind.KILL: 2.0},
        ),
    )


def test_one_seed_prints_its_trace_hash() -> None:
    first, again = sim("--seed", "6"), sim("--seed", "6")
    assert first.exit_code == 0
    assert "trace hash " in first.output
    assert "simulated hours" in first.output
    assert "faults: " in first.output
    assert first.output == again.output


def test_a_range_of_seeds_has_one_hash_whatever_the_number_of_processes() -> None:
    one, two = sim("--seeds", "4..6", "--jobs", "1"), sim("--seeds", "4..6", "--jobs", "2")
    assert one.exit_code == two.exit_code == 0
    hashes = [[line for line in result.output.splitlines() if "trace hash" in line] for result in (one, two)]
    assert hashes[0] == hashes[1]
    assert "(3 seeds)" in hashes[0][0]


def test_a_failure_names_the_rule_the_seed_and_how_to_see_it_again(tmp_path: Path) -> None:
    path = hopeless(tmp_path / "case.json")
    result = sim("--case", str(path))
    assert result.exit_code == 1
    assert "rule: a healed majority makes progress" in result.output
    assert "last events:" in result.output
    assert f"plasma sim run --case {path}" in result.output


def test_a_failure_is_made_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hopeless(tmp_path / "case.json")
    monkeypatch.chdir(tmp_path)
    result = sim("--case", str(path), "--shrink")
    assert result.exit_code == 1
    assert "0 of " in result.output
    assert sim("--case", "sim-5.json").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--seed", "1", "--seeds", "1..2"), "exclude each other"),
        (("--seeds", "2..1"), "no range of seeds"),
        (("--seeds", "x"), "no range of seeds"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], said: str) -> None:
    result = sim(*arguments)
    assert result.exit_code == 2
    assert said in result.output


def test_a_case_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{}")
    assert sim("--case", str(tmp_path / "bad.json")).exit_code == 6
    assert sim("--case", str(tmp_path / "none.json")).exit_code == 6


def test_dask_is_optional() -> None:
    if importlib.util.find_spec("distributed") is not None:
        pytest.skip("the package distributed is installed here")
    result = sim("--seeds", "1..2", "--dask", "tcp://127.0.0.1:1")
    assert result.exit_code == 6
    assert "distributed" in result.output
