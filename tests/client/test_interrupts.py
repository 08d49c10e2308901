"""Ctrl-C while a thread waits for an answer."""

import subprocess
import sys

DEADLINE_S = 60.0
INTERRUPTED = """
import asyncio, signal, threading
from plasmacloud.client import SyncClient

client = SyncClient(["127.0.0.1:1"])
(loop,) = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]


async def never():
    signal.pthread_kill(loop.ident, signal.SIGINT)
    await asyncio.Event().wait()


try:
    client._wait(never())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_signal_that_does_not_wake_the_waiting_thread_is_heard() -> None:
    """As when it comes just before the thread begins to wait: Python knows of it, and nobody looks."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.stdout == "interrupted\n", done.stderr
