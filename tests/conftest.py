"""For all tests."""

import os

from plasmacloud.base.process import PORT_RANGE

_PORTS_OF_ONE = 3_000


def pytest_configure() -> None:
    """Test processes side by side pick their ports from ranges of their own: one may not take what another found."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and PORT_RANGE not in os.environ:
        first = 19_100 + int(worker.removeprefix("gw")) % 4 * _PORTS_OF_ONE
        os.environ[PORT_RANGE] = f"{first}-{first + _PORTS_OF_ONE - 1}"
