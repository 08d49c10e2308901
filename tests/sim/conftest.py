"""For all tests of the simulator."""

import pytest

from plasmacloud.base.logging import silence_logging


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    """What members log would fill the report of a failure; the trace has it."""
    silence_logging()
