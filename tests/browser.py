"""A headless Chromium that tests steer, by its DevTools protocol."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

SECONDS = 60.0
TEXT = "(document.body?.innerText ?? '')"
"""Expression of the text that the page shows."""


class Page:
    """The one page of a browser."""

    def __init__(self, connection: ClientConnection):
        self.connection = connection
        self.numbers = itertools.count(1)
        self.statuses: dict[str, int] = {}
        """HTTP status by address, of all that pages have asked for."""
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; events meanwhile are noted."""
        number = next(self.numbers)
        self.connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.connection.recv(timeout=SECONDS))
            if message.get("method") == "Network.responseReceived":
                response = message["params"]["response"]
                self.statuses[response["url"]] = response["status"]
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def evaluate(self, code: str) -> Any:
        """Return the value of an expression of JavaScript in the page; of a promise, what it gives in the end."""
        told = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def wait_for(self, code: str) -> Any:
        """Evaluate an expression until it is true; returns its value."""
        deadline = time.monotonic() + SECONDS
        while not (value := self.evaluate(code)):
            assert time.monotonic() < deadline, f"{code} stays {value}: {self.evaluate(TEXT)}"
            time.sleep(0.2)
        return value


@contextlib.contextmanager
def browser() -> Generator[Page]:
    """Start Chromium and yield its page; tests are skipped where it isn't installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("there is no Chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run"]
        command = [program, *options, f"--user-data-dir={folder}", "about:blank"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
        ) as process:
            try:
                with connect(_address(Path(folder)), max_size=None) as connection:
                    yield Page(connection)
            finally:
                process.kill()  # its other processes end with it


def _address(folder: Path) -> str:
    """Return the address of the first page, once the browser has written its port."""
    deadline = time.monotonic() + SECONDS
    file = folder / "DevToolsActivePort"
    while not (file.exists() and file.read_text().strip()):
        assert time.monotonic() < deadline, "Chromium did not start"
        time.sleep(0.1)
    port = file.read_text().split()[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
        return next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")
