"""A real Chromium without a window, spoken to over a pipe by its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Chromium:
    """One page of a browser, for as long as the `with` lasts.

    Attributes:
        complaints: errors and warnings of the console, and uncaught exceptions, since the page was opened.
    """

    def __init__(self, width: int = 1200, height: int = 900, *, dark: bool = False) -> None:
        program = next(filter(None, map(shutil.which, NAMES)), None)
        assert program, "no Chromium here: apt-get install chromium, or deselect the tests marked slow"
        self.profile = tempfile.mkdtemp(prefix="metriclab-chromium-")
        (there, self.send), (self.receive, here) = os.pipe(), os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--hide-scrollbars"]
        flags += [f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        # The browser reads from its descriptor 3 and writes to 4; from 10 on neither is in the way of the other.
        far = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (there, here)]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{far[0]} 4>&{far[1]}', program, *flags],
            pass_fds=far,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (there, here, *far):
            os.close(end)
        self.rest, self.number, self.session, self.complaints = b"", 0, None, []
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.send)
        os.close(self.receive)
        shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, path: Path) -> None:
        """Opens a file and waits until it is loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._read()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Moves the pointer, in pixels of the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.receive, 1 << 16)
            assert part, "the browser has ended"
            self.rest += part
        one, self.rest = self.rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(one)
        if "method" in message:
            self.events.append(message)
            params = message["params"]
            if message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(params["exceptionDetails"]["text"])
            if message["method"] == "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            if message["method"] == "Runtime.consoleAPICalled":
                self.complaints.append(str(params["args"]))
        return message
