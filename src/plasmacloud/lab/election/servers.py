"""Election servers as processes: started as an operator starts them, one log file for each session."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from plasmacloud.base.process import ManagedProcess

PLASMA = (sys.executable, "-m", "plasmacloud")


class ElectionServer:
    """One `plasma election serve`. ``number`` counts from 1; ``session`` is that of the log being written, from 0.

    ``log_of`` gives the file of a session: counts of what happened in it are then local to it.
    """

    def __init__(
        self,
        name: str,
        number: int,
        port: int,
        options: Sequence[str],
        env: dict[str, str],
        log_of: Callable[[int], Path],
        *,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.number = number
        self.host = host
        self.port = port
        self.session = -1
        self._log_of = log_of
        argv = [*inside, *PLASMA, "election", "serve", "--id", name, "--listen", f"{host}:{port}", *options]
        self.process = ManagedProcess(name, argv, log_path=log_of(0), env=env)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self.process.running

    @property
    def log_path(self) -> Path:
        """The log of the current session."""
        return self.process.log_path

    def start(self) -> int:
        """Start a new session with a log of its own; returns the PID. Must be called on the main thread."""
        self.session += 1
        self.process.log_path = self._log_of(self.session)
        self.process.start()
        return self.process.pid

    def count_in_log(self, words: str) -> int:
        """How often the current session's log has these words."""
        try:
            return self.log_path.read_bytes().count(words.encode())
        except FileNotFoundError:
            return 0
