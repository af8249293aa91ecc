"""Ways in which files get damaged, drawn from a seeded generator, and a limit of time for who reads them."""

import contextlib
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

INPUTS = int(os.environ.get("TORCHMILL_FUZZ_INPUTS", "600"))
"""Number of damaged inputs that all fuzzers together try."""

SECONDS = 20.0
"""Time after which a reader counts as hanging; most take a millisecond."""

NAMES = (
    "../x",
    "../../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\x00b",
    "\udcff",
    "x" * 300,
    "\n",
    "\u2028",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, 0.5),
    *(float("nan"), float("inf"), "", "null", "NaN", [], {}, [[]], {"": {}}, [None], "1e999", "é", "日本"),
    *NAMES,
)
TEXTS = (
    *(
        b"",
        b"null",
        b"[]",
        b"{}",
        b"true",
        b"0",
        b'""',
        b"NaN",
        b"-Infinity",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"\n",
    ),
    *(b"[" * 5000, b'{"a":' * 5000, b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000),
    *(b"9" * 5000, b"1e999999999", b'"\\ud800"', b'{"a": 1, "a": 2}', b"{'a': 1}", b"\r\n\r\n", b"../../../x\n"),
)


class Hang(BaseException):
    """A reader took too long. No handler of ordinary errors catches it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Return content with one to three kinds of damage."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        content = draw.choice(WAYS)(content, draw)
    return content


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _cut_start(content: bytes, draw: random.Random) -> bytes:
    return content[draw.randrange(len(content) + 1) :]


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 30)) if changed else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _insert(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content) + 1)
    return content[:at] + draw.choice((draw.randbytes(draw.randrange(1, 40)), draw.choice(TEXTS))) + content[at:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[start:end] * draw.randrange(1, 4) + content[end:]


def _zeros(content: bytes, draw: random.Random) -> bytes:
    """Overwrite a part with zeros, as a power cut leaves a page."""
    start, end = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + bytes(end - start) + content[end:]


def _other(_: bytes, draw: random.Random) -> bytes:
    return draw.choice(TEXTS)


def _encoding(content: bytes, draw: random.Random) -> bytes:
    return content.decode("latin-1").encode(draw.choice(("utf-16", "utf-32", "utf-7", "utf-8-sig")))


def _value(content: bytes, draw: random.Random) -> bytes:
    """Replace, remove or rename a value somewhere in a JSON text, or in one of its lines."""
    lines = content.split(b"\n")
    chosen = draw.randrange(len(lines)) if len(lines) > 2 else None
    try:
        tree = json.loads(content if chosen is None else lines[chosen])
    except (ValueError, RecursionError):
        return _flip(content, draw)
    tree = _changed(tree, draw)
    text = json.dumps(tree).encode()
    return text if chosen is None else b"\n".join([*lines[:chosen], text, *lines[chosen + 1 :]])


def _changed(tree: Any, draw: random.Random) -> Any:
    is_inner = isinstance(tree, dict | list) and tree and draw.random() < 0.8
    if not is_inner:
        return draw.choice(VALUES) if draw.random() < 0.9 else _deep(tree, draw.choice((150, 190, 400)))
    place = draw.choice(list(tree) if isinstance(tree, dict) else range(len(tree)))
    way = draw.random()
    if way < 0.1:
        del tree[place]
    elif way < 0.15 and isinstance(tree, dict):
        tree[draw.choice(NAMES)] = tree.pop(place)
    else:
        tree[place] = _changed(tree[place], draw)
    return tree


def _deep(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    *(_cut, _cut_start, _flip, _insert, _repeat, _zeros, _other, _encoding),
    *(_value,) * 8,
)


def replace(path: Path, content: bytes, draw: random.Random) -> None:
    """Replace a file by damaged content; at times by a folder, a fifo or a dangling link."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)
    kind = draw.random()
    if kind < 0.01:
        path.mkdir()
    elif kind < 0.02:
        os.mkfifo(path)
    elif kind < 0.03:
        path.symlink_to(path.with_name("nowhere"))
    else:
        path.write_bytes(content)
        path.chmod(0o600)
