"""Media that change by themselves: what a disk returns is not what was written.

Only what the log can tell is altered: the middle of it, before the last group that is surely whole. Its very end is
another matter. A record that was acknowledged and is altered there looks exactly like one whose write was cut short by
a power loss, and is cut off as such; no log can tell the two apart by itself, and a run in which that happens would
prove nothing.
"""

from pathlib import Path

from plasmacloud.sim.disk import SECTOR_BYTES, Inode
from plasmacloud.sim.node import Node
from plasmacloud.sim.store import Tables, damage
from plasmacloud.storage.wal_format import BLOCK_BYTES, GROUP_MAGIC

_LOG = Path("/data/wal")
_MEMORY = Path("/data/peers.json")
_STATE = Path("/data/state/data.mdb")
_LAST = 4


def _sectors(node: Node) -> list[tuple[Inode, int]]:
    """Segment and offset of sectors in the log that are followed by a whole group or by another segment.

    Half of the time those near the end only: what lies before them is in the applied state too, which would tell.
    """
    segments = [inode for path, inode in node.disk.inodes(_LOG) if path.suffix == ".wal"]
    sectors = [
        (inode, offset)
        for inode in segments
        for offset in range(0, len(inode.durable) if inode is not segments[-1] else _middle(inode), SECTOR_BYTES)
        if any(inode.durable[offset : offset + SECTOR_BYTES])
    ]
    return sectors[-_LAST:] if node.rng.randrange(2) else sectors


def _groups(inode: Inode) -> list[int]:
    """Where the groups of a segment begin."""
    return [
        offset for offset in range(0, len(inode.durable), BLOCK_BYTES) if inode.durable.startswith(GROUP_MAGIC, offset)
    ]


def _middle(inode: Inode) -> int:
    """Where the last group but one of a segment begins: a power loss can have cut only the last one."""
    groups = _groups(inode)
    return groups[-2] if len(groups) > 1 else 0


def corrupt_log(node: Node) -> bool:
    """Some bits of a sector of the log flip."""
    sectors = _sectors(node)
    if not sectors:
        return False
    inode, sector = node.rng.choice(sectors)
    offset = sector + node.rng.randrange(SECTOR_BYTES)
    inode.alter(offset, bytes([inode.durable[offset] ^ 1 << node.rng.randrange(8)]))
    return True


def misdirect_log(node: Node) -> bool:
    """A write went to another sector: that holds it, and its own place what was there before.

    Half of the time it is the beginning of a group, and it went to that of another one in the same segment.
    """
    sectors = _sectors(node)
    if sectors and node.rng.randrange(2):
        segment = node.rng.choice(sectors)[0]
        groups = set(_groups(segment))
        sectors = [(inode, offset) for inode, offset in sectors if inode is segment and offset in groups]
    if not sectors:
        return False
    (source, here), (target, there) = node.rng.choice(sectors), node.rng.choice(sectors)
    sector = bytes(source.durable[here : here + SECTOR_BYTES])
    if sector == target.durable[there : there + SECTOR_BYTES]:
        return False
    target.alter(there, sector)
    return True


def lose_part(node: Node) -> bool:
    """A file of the log is gone, or what was written to it last; and not of the newest one."""
    folder = node.disk.folder(_LOG)
    segments = sorted(name for name in folder.durable if name.endswith(".wal"))[:-1]
    if not segments:
        return False
    name = node.rng.choice(segments)
    inode = folder.durable[name]
    assert isinstance(inode, Inode)
    groups = _groups(inode)
    if groups and node.rng.randrange(2):
        inode.alter(groups[-1], bytes(len(inode.durable) - groups[-1]))
    else:
        for names in (folder.names, folder.durable):
            names.pop(name, None)
    return True


def corrupt_memory(node: Node) -> bool:
    """What the member remembers of the others' lives is altered: it will know that, and remember nothing."""
    remembered = node.disk.find(_MEMORY)
    if not isinstance(remembered, Inode) or not remembered.durable:
        return False
    remembered.alter(node.rng.randrange(len(remembered.durable)), b"!")
    return True


def corrupt_record(node: Node) -> bool:
    """A record of the applied state is altered."""
    tables = node.disk.find(_STATE)
    return isinstance(tables, Tables) and damage(tables, node.rng)
