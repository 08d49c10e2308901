"""The log in real processes on a real disk: file size limits, kill -9, and a locked directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from log_model import ALL, IDENTITY

from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_errors import DirectoryInUse

PRELUDE = """
import asyncio, os, resource, signal, sys
from pathlib import Path
from plasmacloud.storage.entry import EntryKind, HardState
from plasmacloud.storage.entry_codec import make_entry
from plasmacloud.storage.wal import Wal
from plasmacloud.storage.wal_format import Identity
directory = Path(sys.argv[1])
wal = Wal.open(directory, identity=Identity(0xC1, 7), segment_bytes=65536)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
"""

APPEND_FOR_EVER = (
    PRELUDE
    + """
async def main():
    index = wal.last_index()
    say("open", index)
    while True:
        for _ in range(20):
            index += 1
            entry = make_entry(1, index, EntryKind.COMMANDS, b"%d " % index * (index % 50))
            wal.append(HardState(1, 0, index - 1), [entry], lambda i=index: say("ack", i))
        if wal.durable_index > wal.log_mark.index + 200:
            wal.mark(wal.durable_index - 50, 1, b"conf", keep=20)
        await asyncio.sleep(0)
asyncio.run(main())
"""
)

APPEND_UNTIL_THE_LIMIT = (
    PRELUDE
    + """
from plasmacloud.storage.wal_errors import WriteFailed
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
async def main():
    wal.append_blocking(None, [make_entry(1, 1, EntryKind.COMMANDS, b"small")])
    say("ack", 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    failed = asyncio.Event()
    def on_fatal(error):
        say("fatal", type(error).__name__, error)
        failed.set()
    wal.on_fatal = on_fatal
    wal.append(None, [make_entry(1, 2, EntryKind.COMMANDS, bytes(200_000))], lambda: say("ack", 2))
    await failed.wait()
    try:
        wal.append(None, [make_entry(1, 3, EntryKind.COMMANDS, b"")])
    except WriteFailed:
        say("rejected")
asyncio.run(main())
"""
)


def start(program: str, directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True)


def test_a_file_size_limit_is_a_fatal_full_disk_and_the_log_recovers(tmp_path: Path) -> None:
    process = start(APPEND_UNTIL_THE_LIMIT, tmp_path)
    lines = process.communicate(timeout=30)[0].splitlines()
    assert process.returncode == 0
    assert [line.split()[0] for line in lines] == ["ack", "fatal", "rejected"]
    assert lines[1].startswith("fatal DiskFull")
    wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=65536)
    assert [e.data for e in wal.entries(1, wal.last_index() + 1, ALL)] == [b"small"]
    wal.append_blocking(None, [])
    wal.close()


def test_acknowledged_entries_survive_kill_9_again_and_again(tmp_path: Path) -> None:
    acknowledged = 0
    for round_number in range(6):
        process = start(APPEND_FOR_EVER, tmp_path)
        assert process.stdout is not None
        opened = int(process.stdout.readline().split()[1])
        assert opened >= acknowledged
        for _ in range(200 + 300 * round_number):
            acknowledged = int(process.stdout.readline().split()[1])
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            if line.endswith("\n"):
                acknowledged = int(line.split()[1])
        assert process.wait(30) == -signal.SIGKILL
        process.stdout.close()
    wal = Wal.open(tmp_path, identity=IDENTITY, segment_bytes=65536)
    assert wal.last_index() >= acknowledged > 1000
    assert wal.hard_state.commit >= acknowledged - 1
    for e in wal.entries(wal.first_index(), wal.last_index() + 1, ALL):
        assert e.data == b"%d " % e.index * (e.index % 50)
    wal.close()


def test_a_directory_held_by_a_living_process_is_refused_and_free_after_its_death(tmp_path: Path) -> None:
    process = start(APPEND_FOR_EVER, tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(DirectoryInUse, match=f"process {process.pid}"):
        Wal.open(tmp_path, identity=IDENTITY, segment_bytes=65536)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    Wal.open(tmp_path, identity=IDENTITY, segment_bytes=65536).close()
