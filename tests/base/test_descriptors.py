"""How many descriptors a process may have, and how many of them clients get."""

import subprocess
import sys

import pytest

from plasmacloud.base.descriptors import connections_within

PRINT = "from plasmacloud.base.descriptors import raise_descriptor_limit as limit; print(limit(), limit())"


@pytest.mark.parametrize(("soft", "hard"), [(50, 300), (300, 300)])
def test_the_limit_is_raised_as_far_as_that_is_allowed(soft: int, hard: int) -> None:
    argv = ["prlimit", f"--nofile={soft}:{hard}", sys.executable, "-c", PRINT]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == [str(hard), str(hard)]


def test_clients_get_what_is_left_beside_a_reserve() -> None:
    assert connections_within(1_000_000, 4096) == 4096
    assert connections_within(4352, 4096) == 4096
    assert connections_within(4351, 4096) == 4095
    assert connections_within(1024, 4096) == 768
    assert connections_within(100, 4096) == 50
    assert connections_within(1, 4096) == 1
    assert connections_within(1024, 10) == 10
