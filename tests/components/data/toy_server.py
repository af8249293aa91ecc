"""A real HTTP server on this machine that misbehaves as told, and a gzip file for it to serve."""

import gzip
import hashlib
import random
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from torchmill.components.data.downloads.published_file import PublishedFile

REPOSITORY = Path(__file__).parents[3]

CONTENT = random.Random(0).randbytes(600_000)  # does not compress: the .gz is as long
GZIPPED = gzip.compress(CONTENT, mtime=0)
REPACKED = gzip.compress(CONTENT, 1, mtime=1_000_000) + gzip.compress(b"")
"""The same contents in another wrapping, as another mirror has them."""

FILE = PublishedFile("toy", "toy.gz", len(CONTENT), content_sha256=hashlib.sha256(CONTENT).hexdigest())


class Exchange(BaseHTTPRequestHandler):
    """One request; ``answer`` decides what becomes of it."""

    def do_GET(self) -> None:
        self.server.requests.append(self)
        self.server.answer(self, len(self.server.requests))

    def log_message(self, *args: object) -> None:
        pass

    def send(
        self,
        body: bytes,
        *,
        tag: str = '"1"',
        cut: int | None = None,
        ranges: bool = True,
        if_range: bool = True,
    ) -> None:
        """Answer with ``body`` or the part asked for; hang up ``cut`` bytes later than where it begins."""
        span = self.headers.get("Range", "") if ranges else ""
        if if_range and self.headers.get("If-Range") != tag:
            span = ""
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if tag:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:] if cut is None else body[start : start + cut])

    def fail(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answer: Callable[[Exchange, int], None]):
        super().__init__(("127.0.0.1", 0), Exchange)
        self.answer = answer
        self.requests: list[Exchange] = []
        self.url = f"http://127.0.0.1:{self.server_port}/toy/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what some tests are about."""
