"""For all tests."""

import os
import signal
from pathlib import Path

import pytest

from plasmacloud.base.compiled import VARIABLE
from plasmacloud.base.process import PORT_RANGE

_PORTS_OF_ONE = 3_000
_failed: dict[str, None] = {}  # ids, in the order of their failures


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--failed-to", type=Path, metavar="FILE", help="write the ids of the tests that failed, a line each"
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        _failed[report.nodeid] = None


def pytest_sessionfinish(session: pytest.Session) -> None:
    """By the process that reports, not by the workers that it may have. FILE can be given to pytest as ``@FILE``."""
    file = session.config.getoption("failed_to")
    if file is not None and "PYTEST_XDIST_WORKER" not in os.environ:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{name}\n" for name in _failed))


def pytest_configure() -> None:
    """Nodes run the Python sources, and test processes side by side pick their ports from ranges of their own: one may
    not take what another found."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault(VARIABLE, "0")  # the sources are tested; what is compiled has tests of its own
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and PORT_RANGE not in os.environ:
        first = 19_100 + int(worker.removeprefix("gw")) % 4 * _PORTS_OF_ONE
        os.environ[PORT_RANGE] = f"{first}-{first + _PORTS_OF_ONE - 1}"
