"""The suites that the lab can run. A new one is a package and a line here."""

from plasmacloud.lab.election.suite import Suite
from plasmacloud.lab.val13.suite import Val13

SUITES: dict[str, Suite] = {suite.name: suite for suite in (Val13(),)}
