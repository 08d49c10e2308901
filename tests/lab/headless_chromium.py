"""A headless Chromium, driven over two pipes: opens a file and tells what a reader would have seen, and what was asked
of the network.

The protocol is JSON documents separated by NUL bytes on file descriptors 3 and 4 (`--remote-debugging-pipe`):
https://chromedevtools.github.io/devtools-protocol/
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)
DEADLINE_S = 40.0


def find_chromium() -> str | None:
    """The program, or None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One page of one browser. Every answer is waited for with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, back: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._process, self._to, self._back = process, to, back
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        number = self._number
        answer = self._until(lambda found: found.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a file and wait until it is loaded."""
        # By way of another page: to a fragment of the same one, the browser only scrolls.
        for address in ("about:blank", path.as_uri() + fragment):
            self.events.clear()
            self.call("Page.navigate", url=address)
            if not any(event.get("method") == "Page.loadEventFired" for event in self.events):
                self._until(lambda found: found.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def look(self, *, width: int, height: int, dark: bool = False, media: str = "", scripts: bool = True) -> None:
        """The size of the window, and who looks."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def screenshot(self, path: Path, *, full: bool = False) -> bytes:
        """A picture of the window, or of the whole page."""
        result = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full, fromSurface=True)
        data = base64.b64decode(result["data"])
        path.write_bytes(data)
        return data

    def pdf(self, path: Path) -> bytes:
        """The page on paper, A4."""
        result = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        data = base64.b64decode(result["data"])
        path.write_bytes(data)
        return data

    def complaints(self) -> list[str]:
        """Errors and warnings in the console, exceptions, and violations of the page's policy."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(json.dumps(parameters["exceptionDetails"])[:400])
                case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                    found.append(json.dumps(parameters["args"])[:400])
                case "Log.entryAdded":
                    found.append(f"{parameters['entry']['level']}: {parameters['entry']['text']}")
        return found

    def requests(self) -> list[str]:
        """Every address that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def _until(self, wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            while b"\0" in self._buffer:
                raw, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(raw)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            left = deadline - time.monotonic()
            assert left > 0, "Chromium did not answer in time"
            readable, _, _ = select.select([self._back], [], [], left)
            if readable:
                data = os.read(self._back, 1 << 20)
                assert data, f"Chromium ended with status {self._process.poll()}"
                self._buffer += data


@contextmanager
def chromium(profile: Path) -> Iterator[Chromium]:
    """A browser with a profile of its own, ended by its own PID."""
    program = find_chromium()
    assert program is not None
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()

    def arrange() -> None:
        # Moved out of the way first: one of them may be 3 or 4 already.
        commands, answers = os.dup2(read_commands, 103), os.dup2(write_answers, 104)
        os.dup2(commands, 3)
        os.dup2(answers, 4)

    process = subprocess.Popen(
        [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=arrange,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        browser = Chromium(process, write_commands, read_answers)
        yield browser
    finally:
        os.close(write_commands)  # the browser ends with its pipe
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=10)
        os.close(read_answers)
