"""The outside world of a download: HTTP, files, time and chance."""

import base64
import http.client
import random
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

CONNECT_SECONDS = 6.0
READ_SECONDS = 20.0


def open_url(
    request: urllib.request.Request,
    connect_seconds: float = CONNECT_SECONDS,
    read_seconds: float = READ_SECONDS,
) -> Any:
    """Open ``http``, ``https`` or ``file``, with one time-out to connect and one to read, which ``urllib`` lacks."""

    class Http(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(read_seconds)

    class Https(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            self.sock.settimeout(read_seconds)

    class HttpHandler(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Http, req)

    class HttpsHandler(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Https, req, context=ssl.create_default_context())

    opener = urllib.request.build_opener(HttpHandler, HttpsHandler)
    return opener.open(request, timeout=connect_seconds)


def open_file(path: Path, mode: str) -> IO[Any]:
    """Open a file."""
    return path.open(mode)


@dataclass(frozen=True)
class Wire:
    """The functions of the outside world, which tests replace."""

    open_url: Callable[[urllib.request.Request], Any] = open_url
    open_file: Callable[[Path, str], IO[Any]] = open_file
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    """Random number from 0 to 1."""


def request_for(url: str) -> urllib.request.Request:
    """Return a request whose password is in a header rather than in the address."""
    parts = urllib.parse.urlsplit(url)
    clean = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    # Uncompressed by HTTP: ranges and digests count the bytes of the file on the server.
    request = urllib.request.Request(clean, headers={"Accept-Encoding": "identity", "User-Agent": "torchmill"})
    if parts.username:
        words = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        secret = base64.b64encode(words.encode()).decode()
        # Unredirected: another server must not receive the password.
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def in_short(error: object) -> str:
    """Return a network error in a few words."""
    if isinstance(error, socket.gaierror):
        return "the name of the server is not known"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError):
        return "hung up"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return str(getattr(error, "strerror", "") or error) or type(error).__name__
