"""The recipe of a recorded run: its configuration, and the source code that it takes trust to run."""

import hashlib
import logging
import sys
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.config import RunConfig
from torchmill.components.errors import UserError
from torchmill.components.files import append_to
from torchmill.components.runs.folders import Runs, below
from torchmill.components.runs.reproduction import RecordedRun
from torchmill.components.runs.snapshot import read_snapshot
from torchmill.components.wording import count

logger = logging.getLogger("torchmill")


def fetch_recipe(runs: Runs, run: RecordedRun, trust: bool) -> RunConfig:
    """Copy the snapshot of a run, and return its configuration once the user trusts its source code."""
    folder = below(runs.work / "recipes", run.run_id)
    tracking.fetch_snapshot(runs, run, folder)
    check_trust(runs, run.name, folder / "code", trust)
    return read_snapshot(folder)


def check_trust(runs: Runs, run: str, code: Path, is_trusted: bool) -> None:
    """Log that recorded source code is about to run; if it comes from a server, ask the user once.

    A server's administrator, and whoever may write to it, decides what that code does. Code of the folder's own MLflow
    was run here before.

    Args:
        run: name of the run, for messages.
        code: folder with the source code; nothing happens if there is none.
        is_trusted: the user has said yes already (``--trust``).

    Raises:
        UserError: the user says no, or there is no terminal to ask at.
    """
    files = sorted(path for path in code.rglob("*") if path.is_file()) if code.is_dir() else []
    if not files:
        return
    server = tracking.server_address()
    source = f"{count(len(files), 'file')} of source code that run {run} recorded"
    logger.info("run %s: running %s%s, copied to %s", run, source, f" at {server}" if server else "", code)
    if not server or is_trusted or (digest := _digest(code, files)) in _trusted(runs):
        return
    if not sys.stdin.isatty():
        raise UserError(f"{source} at {server} was not run: it could do anything.", f"Read {code}, then add --trust.")
    question = f"{code} comes from {server} and can do whatever you can. Run it? [y/N] "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError(f"{source} was not run.")
    with append_to(_file(runs)) as file:
        file.write(f"{digest}\n".encode())


def _file(runs: Runs) -> Path:
    return runs.work / "trusted"


def _trusted(runs: Runs) -> set[str]:
    """Return the digests of the source code that the user has said yes to."""
    return set(_file(runs).read_text(encoding="ascii", errors="replace").split()) if _file(runs).is_file() else set()


def _digest(code: Path, files: list[Path]) -> str:
    hasher = hashlib.sha256()
    for file in files:
        hasher.update(f"{file.relative_to(code)}\0{file.stat().st_size}\0".encode(errors="surrogateescape"))
        hasher.update(file.read_bytes())
    return hasher.hexdigest()
