"""For all tests."""

import os
import signal

from plasmacloud.base.compiled import VARIABLE
from plasmacloud.base.process import PORT_RANGE

_PORTS_OF_ONE = 3_000


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
