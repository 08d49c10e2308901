"""Media that change by themselves: what a disk returns is not what was written.

Only what the log can tell is altered: the middle of it. Its very end is another matter. A record that was acknowledged
and is altered at the end of the newest segment looks exactly like one whose write was cut short by a power loss, and is
cut off as such; no log can tell the two apart by itself, and a run in which that happens would prove nothing.
"""

from pathlib import Path

from plasmacloud.sim.disk import SECTOR_BYTES, Inode
from plasmacloud.sim.node import Node
from plasmacloud.sim.store import Tables, damage

_LOG = Path("/data/wal")
_STATE = Path("/data/state/data.mdb")


def _old_segments(node: Node) -> list[Inode]:
    """The segments before the newest."""
    return [inode for path, inode in node.disk.inodes(_LOG) if path.suffix == ".wal"][:-1]


def _used_sectors(inode: Inode) -> list[int]:
    return [
        offset
        for offset in range(0, len(inode.durable), SECTOR_BYTES)
        if any(inode.durable[offset : offset + SECTOR_BYTES])
    ]


def corrupt_log(node: Node) -> bool:
    """Some bits of a sector of the log flip."""
    segments = _old_segments(node)
    if not segments:
        return False
    inode = node.rng.choice(segments)
    offset = node.rng.choice(_used_sectors(inode)) + node.rng.randrange(SECTOR_BYTES)
    inode.alter(offset, bytes([inode.durable[offset] ^ 1 << node.rng.randrange(8)]))
    return True


def misdirect_log(node: Node) -> bool:
    """A write went to another sector: that holds it, and its own place what was there before."""
    segments = _old_segments(node)
    if not segments:
        return False
    source, target = node.rng.choice(segments), node.rng.choice(segments)
    here, there = node.rng.choice(_used_sectors(source)), node.rng.choice(_used_sectors(target))
    sector = bytes(source.durable[here : here + SECTOR_BYTES])
    if sector == target.durable[there : there + SECTOR_BYTES]:
        return False
    target.alter(there, sector)
    return True


def corrupt_record(node: Node) -> bool:
    """A record of the applied state is altered."""
    tables = node.disk.find(_STATE)
    return isinstance(tables, Tables) and damage(tables, node.rng)
