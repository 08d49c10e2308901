"""What a run shows where nothing can be drawn over."""

import io

import pytest
from lab_handmade import plan
from rich.console import Console

from plasmacloud.lab import live
from plasmacloud.lab.observed_load import Progress
from plasmacloud.lab.plan import Plan


class Load:
    acknowledged = 1234


class Rig:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.progress = Progress(doing="killing n2", trial=7)
        self.workload = Load()


def test_a_long_scenario_gives_a_sign_of_life_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    moments, a_plan = [0.0], plan(trials=20)
    monkeypatch.setattr(live.time, "monotonic", lambda: moments[-1])
    written = io.StringIO()
    display = live.PlainDisplay(Console(file=written, width=200))
    display.open([a_plan])
    display.begin(a_plan)
    for now in (10.0, 59.0, 61.0, 62.0, 119.0, 122.0):
        moments.append(now)
        display.tick(Rig(a_plan))
    lines = written.getvalue().splitlines()
    assert lines[0].startswith("[1/1]")
    assert [line.strip() for line in lines[1:]] == [
        f"{seconds} s  trial 7/20  killing n2  1,234 writes" for seconds in (61, 122)
    ]
