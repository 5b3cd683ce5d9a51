"""A real headless browser for tests: Debian's chromium, by its driver's plain HTTP (WebDriver)."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

IS_THERE = all(map(shutil.which, ("chromium", "chromedriver")))
_SECONDS = 60
_FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,700",
          "--disable-background-networking", "--disable-dev-shm-usage"]  # fmt: skip


class Browser:
    """A session of a driver."""

    def __init__(self, address: str) -> None:
        self._address = address
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"goog:chromeOptions": {"args": _FLAGS}, "goog:loggingPrefs": logs}
        found = self._post("", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/{found['sessionId']}"

    def _post(self, command: str, content: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._address + command,
            json.dumps(content).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self._post("/url", {"url": page.as_uri()})

    def run(self, script: str) -> Any:
        """The value that JavaScript returns."""
        return self._post("/execute/sync", {"script": script, "args": []})

    def act(self, *devices: dict[str, Any]) -> None:
        """Move, press and type as a person would."""
        self._post("/actions", {"actions": list(devices)})

    def press(self, *keys: str) -> None:
        steps = [{"type": way, "value": key} for key in keys for way in ("keyDown", "keyUp")]
        self.act({"type": "key", "id": "keyboard", "actions": steps})

    def drag(self, start: tuple[int, int], by: tuple[int, int], kind: str = "mouse") -> None:
        self.act(finger(kind, kind, start, by))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last call: "browser" is the console, "performance" DevTools."""
        return self._post("/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


def finger(name: str, kind: str, start: tuple[int, int], by: tuple[int, int]) -> dict[str, Any]:
    """A mouse or a finger that is put down, moved, and lifted."""
    moves = [
        {"type": "pointerMove", "duration": 50, "x": start[0] + x, "y": start[1] + y}
        for x, y in ((by[0] // 2, by[1] // 2), by)
    ]
    steps = [
        {"type": "pointerMove", "duration": 0, "x": start[0], "y": start[1]},
        {"type": "pointerDown", "button": 0},
        *moves,
        {"type": "pointerUp", "button": 0},
    ]
    return {"type": "pointer", "id": name, "parameters": {"pointerType": kind}, "actions": steps}


@contextmanager
def started_browser() -> Iterator[Browser]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(port)
        browser = Browser(f"http://127.0.0.1:{port}/session")
        try:
            yield browser
        finally:
            request = urllib.request.Request(browser._address, method="DELETE")
            urllib.request.urlopen(request, timeout=_SECONDS).close()
    finally:
        driver.terminate()
        driver.wait()


def _wait_for(port: int) -> None:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError("chromedriver does not answer")
