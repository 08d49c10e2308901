"""The suites that the lab can run. A new one is one package and one line here."""

from plasmacloud.lab.suites.base import Suite
from plasmacloud.lab.val13.suite import Val13

SUITES: dict[str, Suite] = {suite.name: suite for suite in (Val13(),)}
