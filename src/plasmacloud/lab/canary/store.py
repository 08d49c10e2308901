"""The canary's state: keys in memory, a file that is always behind. WRONG ON PURPOSE."""

from pathlib import Path

import msgspec


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One key. Every write is a new version of it."""

    key: str
    value: str
    create_revision: int
    mod_revision: int
    version: int


class Store:
    """Keys, the revision, and what has not been written to the file yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.items: dict[str, Item] = {}
        self.revision = 1
        self.log: list[Item] = []  # since the last snapshot or start, in order of revision
        self._unwritten: list[Item] = []
        self._rewrite = False
        if path.exists():
            for line in path.read_bytes().splitlines():
                try:
                    self._take(msgspec.json.decode(line, type=Item))
                except msgspec.DecodeError:
                    break  # cut off by the crash

    def put(self, key: str, value: str) -> Item:
        """Write a key, in memory."""
        old = self.items.get(key)
        revision = self.revision + 1
        if old is None:
            item = Item(key, value, revision, revision, 1)
        else:
            item = Item(key, value, old.create_revision, revision, old.version + 1)
        self.apply(item)
        return item

    def apply(self, item: Item) -> None:
        """Take a write that another node has numbered."""
        self._take(item)
        self.log.append(item)
        self._unwritten.append(item)

    def reset(self) -> None:
        """Forget everything: a snapshot follows."""
        self.items.clear()
        self.log.clear()
        self._unwritten.clear()
        self.revision = 1
        self._rewrite = True

    def range(self, start: str, end: str, limit: int) -> tuple[list[Item], int]:
        """Items in [start, end), at most ``limit`` of them (0: all), and how many there are."""
        keys = sorted(key for key in self.items if (start <= key < end if end else key == start))
        return [self.items[key] for key in (keys[:limit] if limit else keys)], len(keys)

    def write_file(self) -> None:
        """Catch the file up. No fsync, and long after the acknowledgement: that is the defect."""
        mode = "wb" if self._rewrite else "ab"
        with self._path.open(mode) as file:
            file.write(msgspec.json.Encoder().encode_lines(self._unwritten))
        self._unwritten.clear()
        self._rewrite = False

    def _take(self, item: Item) -> None:
        self.items[item.key] = item
        self.revision = max(self.revision, item.mod_revision)
