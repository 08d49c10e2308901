"""The lives of a member: which snapshots begin a new one with another state."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from plasmacloud.chainfire.running_member import Lives, RunningMember
from plasmacloud.chainfire.snapshot_flow import Received


class Script:
    """What each life has applied when a snapshot arrives, and the index of that."""

    def __init__(self, *lives: tuple[int, int | None]) -> None:
        self.lives = list(lives)
        self.opened_with: list[int | None] = []

    def member_class(self) -> type[RunningMember]:
        script = self

        class Member:
            def __init__(self, *_: Any) -> None:
                self.applied, self.arrives = script.lives.pop(0)
                self.machine = SimpleNamespace(applied_index=0)

            def open(self, received: Received | None) -> None:
                script.opened_with.append(None if received is None else received.info.index)

            async def start(self) -> None:
                pass

            async def run(self, stop: asyncio.Event) -> Any:
                self.machine.applied_index = self.applied
                if self.arrives is None:
                    return None
                return Received(Path("x"), cast(Any, SimpleNamespace(index=self.arrives)))

            async def close(self) -> None:
                pass

        return cast(type[RunningMember], Member)


async def opened_with(*lives: tuple[int, int | None]) -> list[int | None]:
    script = Script(*lives)
    await Lives(cast(Any, None), cast(Any, None), cast(Any, None), member_class=script.member_class()).run(
        asyncio.Event()
    )
    return script.opened_with


@pytest.mark.parametrize(
    ("applied", "arrives", "installed"), [(10, 11, 11), (10, 10, None), (250, 235, None), (0, 1, 1)]
)
def test_a_snapshot_that_was_overtaken_meanwhile_is_not_installed(
    applied: int, arrives: int, installed: int | None
) -> None:
    assert asyncio.run(opened_with((applied, arrives), (applied, None))) == [None, installed]
