"""A disk that is really full: a small file system in a namespace of the test's own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from contest import new_server

from plasmacloud.base.errors import PlasmaError

SCENE = Path(__file__).with_name("full_disk_scene.py")
SIZE_MB = 110  # an empty PostgreSQL takes 40 to 60
NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--mount", "--keep-caps", "--"]


def _in_a_small_file_system(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    script = 'size="$1"; where="$2"; shift 2; mount -t tmpfs -o size="$size"m tmpfs "$where" && exec "$@" "$where"'
    argv = [*NAMESPACE, "sh", "-c", script, "sh", str(SIZE_MB), str(directory), *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    try:
        new_server(tmp_path / "unused")
    except PlasmaError as error:
        pytest.skip(f"no PostgreSQL: {error}")
    if shutil.which("unshare") is None:
        pytest.skip("there is no `unshare`")
    directory = tmp_path / "small"
    directory.mkdir()
    if _in_a_small_file_system(directory, "test", "-w").returncode != 0:
        pytest.skip("no namespace with a file system of its own can be made here")
    return directory


def test_nobody_leads_on_a_full_disk_and_the_election_goes_on_when_there_is_room(small: Path) -> None:
    done = _in_a_small_file_system(small, sys.executable, str(SCENE))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "leads 1.1"
    assert said[1].startswith("refused 53100")
    assert said[2].startswith("nobody leads")
    assert "No space left on device" in said[2]
    assert re.fullmatch(r"leads 1\.\d+", said[-2])
    numbers = [int(number) for number in re.findall(r"\d+", said[-1])]
    assert numbers == list(range(1, len(numbers) + 1)), "attempts that were refused left a gap"
    assert said[-2] == f"leads 1.{numbers[-1]}"
