"""Whether a member takes the steps of an installation one by one, and to the end (`storage.install`).

A crash in the middle needs luck to be where a slip shows, and a second stroke of it to show soon. So the steps are
looked at themselves: what a decision rests on is on the disk before it, each change of a name before the next one, and
no start leaves half of an installation behind.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from plasmacloud.sim.disk import Folder, PowerLoss, SimDisk
from plasmacloud.sim.violation import Violation
from plasmacloud.storage.install import FRESH_SUFFIX, PENDING_NAME, STATE

if TYPE_CHECKING:
    from plasmacloud.chainfire.running_member import RunningMember

_DRAFT = Path(PENDING_NAME).with_suffix(".tmp").name


class Steps:
    """Of one life: is told of every name that is about to change. ``fail`` is told what is wrong."""

    def __init__(self, disk: SimDisk, directory: Path, fail: Callable[[Violation], None]) -> None:
        self._disk = disk
        self._directory = directory
        self._fail = fail
        self.ends_at = 0  # everything ends before so manieth change behind the decision; 0: nothing does
        # Of an end that an earlier life has not made durable this one cannot know; a decision it can.
        folder = disk.find(directory)
        self._inherited = list(folder.unsynced) if isinstance(folder, Folder) else []

    def changes(self, path: Path) -> None:
        """The name ``path`` is about to be given or taken."""
        folder = self._disk.find(self._directory)
        if path.parent != self._directory or not isinstance(folder, Folder):
            return
        decided = PENDING_NAME in folder.names
        unsynced = [
            change for change in folder.unsynced if decided or not any(change is each for each in self._inherited)
        ]
        under_way = decided or any(PENDING_NAME in change for change in unsynced)
        if path.name == PENDING_NAME and not under_way:
            unsynced = [change for change in unsynced if change.keys() != {_DRAFT}]
        elif not under_way:
            return
        elif self.ends_at:
            self.ends_at -= 1
            if not self.ends_at:
                self._disk.end()
                raise PowerLoss
        if unsynced:
            names = ", ".join(sorted({name for change in unsynced for name in change}))
            self._fail(
                Violation(
                    "an installation takes durable steps",
                    f"{path} is changed, and a loss of power could undo the step before it, of {names}",
                )
            )


def check_installed(member: "RunningMember") -> None:
    """A life has begun: no installation is half done."""
    disk, directory = member.environment.disk, member.config.data_dir
    left = {PENDING_NAME, STATE + FRESH_SUFFIX, STATE + ".old"} & set(disk.list_directory(directory))
    if left:
        raise Violation(
            "an installation comes to its end", f"{member.raft.id:x} has started with {', '.join(sorted(left))}"
        )
