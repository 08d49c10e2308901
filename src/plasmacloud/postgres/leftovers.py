"""The System V shared memory segment by which PostgreSQL notices that processes of an earlier life still run.

A server removes its segment when it stops, and takes the old one over when it starts. Only one that is killed and
never started again leaves it behind: 56 bytes, until the machine is rebooted.
"""

import ctypes
from pathlib import Path

_IPC_RMID = 0
_KEY_LINE = 6  # of postmaster.pid: "key id", see src/include/utils/pidfile.h
_libc = ctypes.CDLL(None, use_errno=True)


def forget_shared_memory(data_dir: Path) -> bool:
    """Remove the segment that the server of this directory left. False: there is none of it any more."""
    try:
        line = (data_dir / "postmaster.pid").read_text().splitlines()[_KEY_LINE]
        key, segment = map(int, line.split())
    except (OSError, IndexError, ValueError):
        return False
    if _libc.shmget(ctypes.c_int(key & 0xFFFFFFFF), ctypes.c_size_t(0), 0) != segment:
        return False  # the id is somebody else's by now
    return bool(_libc.shmctl(segment, _IPC_RMID, None) == 0)
