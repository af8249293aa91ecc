"""Downloads: mirrors in order, resumed at the byte where they broke off, checked, renamed when complete."""

import contextlib
import http.client
import json
import logging
import os
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from torchmill.components import files
from torchmill.components.data.downloads.http import Wire, in_short, request_for
from torchmill.components.data.downloads.published_file import PublishedFile, flaw
from torchmill.components.data.progress import Report, shown
from torchmill.components.errors import ConfigError, Unreachable, UserError
from torchmill.components.state_files import read_json
from torchmill.components.wording import without_passwords

logger = logging.getLogger("torchmill")

MIRROR_VARIABLE = "TORCHMILL_MIRROR"
"""Environment variable with the user's own mirrors."""

ATTEMPTS = 4
"""Failures in a row, without progress, after which a mirror is given up."""

PATIENCE_SECONDS = 20.0
"""Time without progress after which each remaining mirror gets one attempt."""

PROGRESS_BYTES = 64 * 1024
"""Smallest progress that counts: a server that sends a byte per connection would take for ever."""

SLOWEST_BYTES_PER_SECOND, SLOWNESS_SECONDS = 1024, 30.0
"""Speed that a mirror must keep, on average over that many seconds."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 8.0

CHUNK_BYTES = 16 * 1024
RETRY_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses of faults that may pass."""


def download(
    file: PublishedFile,
    destination: Path,
    mirrors: Sequence[str],
    *,
    show: Callable[[str], AbstractContextManager[Report]] = shown,
    wire: Wire | None = None,
) -> None:
    """Download a file and check its digest, unless ``destination`` holds it already.

    Bytes arrive in ``NAME.part`` beside the destination. A later call, or another process, resumes from there.

    Args:
        mirrors: addresses of folders that hold the file; those in ``TORCHMILL_MIRROR`` are asked first.

    Raises:
        ConfigError: ``TORCHMILL_MIRROR`` is not the address of a mirror.
        Unreachable: no mirror answered, or none sent the whole file.
        UserError: no mirror has the file, all have other contents, or the disk is full.
    """
    if flaw(destination, file) is None:
        return
    urls = [f"{mirror}{file.path}" for mirror in own_mirrors(os.environ.get(MIRROR_VARIABLE, ""))]
    urls += [f"{mirror.rstrip('/')}/{file.name}" for mirror in mirrors]
    refusals: list[tuple[str, _Refusal]] = []
    files.make_folder(destination.parent)
    with files.locked(destination.with_name(f"{destination.name}.lock"), subject=file.path):
        if flaw(destination, file) is None:
            return
        with show(file.path) as report:
            attempt = _Download(file, destination, report, wire or Wire())
            for url in urls:
                try:
                    attempt.take_from(url)
                    return
                except _Refusal as refusal:
                    refusals.append((url, refusal))
                    if url != urls[-1]:
                        logger.info("%s: %s; trying the next mirror", without_passwords(url), refusal)
    raise _download_error(file, refusals)


def own_mirrors(setting: str) -> list[str]:
    """Return the addresses in ``TORCHMILL_MIRROR``, which separates them by commas, each with a slash at its end.

    Raises:
        ConfigError: one of them is not ``file:///folder``, ``http://…`` or ``https://…``.
    """
    mirrors = [text.strip().rstrip("/") + "/" for text in setting.split(",") if text.strip()]
    for mirror in mirrors:
        try:
            parts = urllib.parse.urlsplit(mirror)
            is_valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            is_valid = is_valid or (parts.scheme == "file" and parts.netloc in ("", "localhost"))
        except ValueError:
            is_valid = False
        if not is_valid:
            raise ConfigError(
                f"{MIRROR_VARIABLE} is not the address of a mirror: {without_passwords(mirror)!r}.",
                "Give file:///folder (three slashes), http://… or https://…, several separated by commas.",
            )
    return mirrors


class _Fault(Exception):
    """A fault that may pass in a moment."""

    def __init__(self, reason: str, pause_seconds: float = 0.0):
        super().__init__(reason)
        self.pause_seconds = pause_seconds


class _Refusal(Exception):
    """A mirror that is given up."""

    temporary = False
    wrong_contents = False


class _Silence(_Refusal):
    temporary = True


class _WrongContents(_Refusal):
    wrong_contents = True


class _Part:
    """The bytes that have arrived (``NAME.part``), and their origin (``NAME.part.json``)."""

    def __init__(self, destination: Path, wire: Wire):
        self.path = destination.with_name(f"{destination.name}.part")
        self.origin_path = destination.with_name(f"{destination.name}.part.json")
        self.wire = wire

    def size(self) -> int:
        with contextlib.suppress(OSError):
            return self.path.stat().st_size
        return 0

    def origin(self, url: str) -> dict[str, Any]:
        """Return the part's origin if it came from ``url``; else an empty dict."""
        origin = read_json(self.origin_path, dict)
        return origin if origin and origin.get("url") == without_passwords(url) and self.size() else {}

    def discard(self) -> None:
        with files.writing(self.path.parent):
            self.path.unlink(missing_ok=True)
            self.origin_path.unlink(missing_ok=True)

    def begin(self, url: str, headers: Any, total_bytes: int | None) -> IO[bytes]:
        # The order matters after a kill: bytes never lie beside the origin of other bytes.
        self.discard()
        origin = {
            "url": without_passwords(url),
            "etag": headers.get("ETag", ""),
            "last_modified": headers.get("Last-Modified", ""),
            "total_bytes": total_bytes,
        }
        with files.writing(self.path.parent, total_bytes):
            with self.wire.open_file(self.origin_path, "wb") as file:
                file.write(json.dumps(origin).encode())
            return self.wire.open_file(self.path, "wb")

    def resume(self) -> IO[bytes]:
        with files.writing(self.path.parent):
            return self.wire.open_file(self.path, "ab")

    def publish(self, destination: Path) -> None:
        with files.writing(destination.parent):
            files.publish(self.path, destination)
            self.origin_path.unlink(missing_ok=True)


class _Download:
    """The download of one file, from one mirror after the other."""

    def __init__(self, file: PublishedFile, destination: Path, report: Report, wire: Wire):
        self.file, self.destination, self.report, self.wire = file, destination, report, wire
        self.part = _Part(destination, wire)
        self.last_progress = wire.clock()

    def take_from(self, url: str) -> None:
        """Download the file from an address to its destination.

        Raises:
            _Refusal: this mirror does not send it.
        """
        if self.part.size() and self.part.size() == self.part.origin(url).get("total_bytes"):
            # An earlier process was killed after the last byte and before the rename.
            if flaw(self.part.path, self.file) is None:
                return self.part.publish(self.destination)
            self.part.discard()
        is_doubtful = self._transfer_patiently(url)
        fault = flaw(self.part.path, self.file)
        if fault and is_doubtful:
            self.part.discard()
            self._transfer_patiently(url)
            fault = flaw(self.part.path, self.file)
        if fault:
            self.part.discard()
            raise _WrongContents(fault)
        self.part.publish(self.destination)

    def _transfer_patiently(self, url: str) -> bool:
        """Call ``_transfer`` until all bytes have arrived, and return its result."""
        failures, farthest = 0, 0
        while True:
            try:
                return self._transfer(url)
            except _Fault as fault:
                reached = self.part.size() if self.part.origin(url) else 0
                if reached >= farthest + PROGRESS_BYTES:
                    failures, farthest = 0, reached
                    self.last_progress = self.wire.clock()
                failures += 1
                if failures >= ATTEMPTS or self.wire.clock() - self.last_progress > PATIENCE_SECONDS:
                    raise _Silence(str(fault)) from fault
                # "Full jitter": a thousand clients that fail together don't return together.
                longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures - 1))
                pause = max(self.wire.chance() * longest, fault.pause_seconds)
                logger.debug("%s: %s; again in %.1f s", without_passwords(url), fault, pause)
                self.wire.sleep(pause)

    def _transfer(self, url: str) -> bool:
        """Send one request, from the end of the part.

        Returns:
            Whether the transfer itself may be at fault if the contents are wrong. A server that mishandles ranges
            may send halves of different files, and without a length the end may come early.
        """
        origin = self.part.origin(url)
        validator = _validator(origin)
        size = self.part.size() if validator else 0
        request = request_for(url)
        if size:
            request.add_header("Range", f"bytes={size}-")
            request.add_header("If-Range", validator)
        with self._ask(request) as answer:
            status = getattr(answer, "status", None) or 200  # file:// has none
            if status == 416 and size:
                if flaw(self.part.path, self.file) is None:
                    return True
                self.part.discard()
                raise _Fault("the part of an earlier download no longer fits")
            if status == 206 and size and not _continues(answer.headers, origin, size):
                self.part.discard()
                raise _Fault("the file on the server has changed")
            if status not in (200, 206) or (status == 206 and not size):
                raise _Refusal(f"HTTP {status}")
            begun = size if status == 206 else 0
            length = answer.headers.get("Content-Length", "")
            total = begun + int(length) if length.isascii() and length.isdecimal() else None
            if total and total > self.file.limit_bytes:
                raise _WrongContents(f"has {total:,} bytes, more than the file can have")
            part = self.part.resume() if begun else self.part.begin(url, answer.headers, total)
            self._copy(answer, part, begun, total, without_passwords(url))
        return begun > 0 or total is None

    def _ask(self, request: urllib.request.Request) -> Any:
        try:
            return self.wire.open_url(request)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                return error
            with error:
                wait = error.headers.get("Retry-After", "") if error.headers else ""
            if error.code in RETRY_STATUSES:
                pause = min(float(wait), LONGEST_PAUSE_SECONDS) if wait.isascii() and wait.isdecimal() else 0.0
                raise _Fault(f"HTTP {error.code}", pause) from error
            raise _Refusal(f"HTTP {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, FileNotFoundError | IsADirectoryError | NotADirectoryError):
                raise _Refusal("no such file") from error
            hopeless = (PermissionError, ssl.SSLCertVerificationError, http.client.InvalidURL, ValueError)
            if isinstance(reason, hopeless):
                raise _Refusal(in_short(reason)) from error
            raise _Fault(in_short(reason)) from error

    def _copy(self, answer: IO[bytes], part: IO[bytes], done: int, total: int | None, source: str) -> None:
        folder = self.part.path.parent
        read = getattr(answer, "read1", answer.read)  # returns what has arrived: `read` waits for a whole chunk
        since, before = self.wire.clock(), done
        self.report(done, total, source)
        try:
            while True:
                try:
                    chunk = read(CHUNK_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _Fault(f"broke off after {done:,} bytes ({in_short(error)})") from error
                if not chunk:
                    break
                done += len(chunk)
                if done > self.file.limit_bytes:
                    raise _WrongContents(f"sends more than the {self.file.limit_bytes:,} bytes the file can have")
                with files.writing(folder, (total or self.file.limit_bytes) - done + len(chunk)):
                    part.write(chunk)
                self.report(done, total, source)
                if (seconds := self.wire.clock() - since) > SLOWNESS_SECONDS:
                    if done - before < SLOWEST_BYTES_PER_SECOND * seconds:
                        raise _Fault(f"sent {done - before:,} bytes in {seconds:.0f} s")
                    since, before = self.wire.clock(), done
        finally:
            # Closing writes the buffer, so a full disk may raise here.
            with files.writing(folder, (total or self.file.limit_bytes) - done):
                part.close()
        # http.client accepts a body that is shorter than its announced length.
        if total is not None and done < total:
            raise _Fault(f"broke off after {done:,} of {total:,} bytes")


def _validator(origin: dict[str, Any]) -> str:
    """Return the value for If-Range; empty if the server sent neither a strong tag nor a date."""
    etag = str(origin.get("etag") or "")
    # A weak tag promises the same meaning, not the same bytes (RFC 9110, 13.1.5).
    return etag if etag.startswith('"') else str(origin.get("last_modified") or "")


def _continues(headers: Any, origin: dict[str, Any], size: int) -> bool:
    """Return True if a 206 continues the same file after its first ``size`` bytes."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not span or int(span[1]) != size:
        return False
    same_size = "*" in (span[2], str(origin.get("total_bytes") or "*")) or int(span[2]) == origin["total_bytes"]
    tag, date = headers.get("ETag"), headers.get("Last-Modified")
    same_tag = not tag or not origin.get("etag") or tag == origin["etag"]
    same_date = not date or not origin.get("last_modified") or date == origin["last_modified"]
    return same_size and same_tag and same_date


def _download_error(file: PublishedFile, refusals: Sequence[tuple[str, _Refusal]]) -> UserError:
    attempts = "".join(f"\n  {without_passwords(url)}: {refusal}." for url, refusal in refusals)
    remedy = f"set {MIRROR_VARIABLE} to a folder (file:///…) or a server (https://…) that has {file.path}"
    if any(refusal.wrong_contents for _, refusal in refusals):
        return UserError(
            f"Nobody gave the {file.path} that was published.{attempts}", f"{remedy[0].upper()}{remedy[1:]}."
        )
    if any(refusal.temporary for _, refusal in refusals):
        return Unreachable(f"Could not download {file.path}.{attempts}", f"Check the network, or {remedy}.")
    return UserError(f"No mirror has {file.path}.{attempts}", f"{remedy[0].upper()}{remedy[1:]}.")
