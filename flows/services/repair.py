"""`torchmill repair`: mend damaged files, close crashed runs, send what MLflow lacks, follow a moved folder."""

import contextlib
import datetime
import platform
from collections.abc import Iterator
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.runs.checked_folders import CheckedFolders
from torchmill.components.runs.claim import Manifest, is_alive
from torchmill.components.runs.cleanup import leftovers
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.components.state_files import only_looking
from torchmill.components.wording import count
from torchmill.flows.services import crashed_runs, prefect_server
from torchmill.flows.services.damaged_files import mend_files
from torchmill.flows.services.prefect_client import connected


def repair(runs: Runs, dry_run: bool) -> int:
    """Repair what can be repaired, print a line on each repair, and return the exit code.

    Args:
        dry_run: only print what would be done.
    """
    print(f"{runs.folder}{':  only looked at, nothing is changed' if dry_run else ''}", flush=True)
    with only_looking() if dry_run else contextlib.nullcontext():
        folders = CheckedFolders(runs)
    folders.look_ahead()
    tracking.map_tables()  # meanwhile
    lines = 0
    failed = False
    for part in (mend_files, _addresses, _undelivered, _running, _flow_runs, _files):
        try:
            with only_looking() if dry_run else contextlib.nullcontext():
                for line in part(folders, dry_run):
                    lines += 1
                    print(f"  {line}", flush=True)
        except UserError as error:  # a server is away; the other parts don't need it
            failed = True
            print(f"  {error}", flush=True)
    if not failed:
        folders.save()
    if not (lines or failed):
        print("  nothing to repair", flush=True)
    return 1 if failed else 0


def _addresses(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Correct the addresses of artifacts in a folder that was moved."""
    look = tracking.former_addresses if dry_run else tracking.relocate
    for former in look(folders.runs):
        yield f"addresses of artifacts: from {former.removeprefix('file://')} to {folders.runs.folder}"


def _undelivered(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Send MLflow the records that it lacks."""
    if dry_run:
        for folder in tracking.pending_runs(folders.runs, folders):
            yield f"run {_name(folder)}: records and outcome are to be sent to MLflow"
        return
    for folder, outcome in tracking.deliver_pending(folders.runs, folders).items():
        is_sent = outcome.isupper()  # a status; otherwise the reason
        rest = f"{outcome}, all records are in MLflow" if is_sent else f"records stay in the folder: {outcome}"
        yield f"run {_name(folder)}: {rest}"


def _running(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Close runs that MLflow shows as running, and that have neither a journal nor a process here."""
    runs = folders.runs
    with_journal = {folder.name for folder in tracking.pending_runs(runs, folders)}
    for run in tracking.running_runs(runs):
        title = f"run {run.name} ({run.run_id})"
        if run.folder is None:
            yield f"{title} says RUNNING; Torchmill did not start it: left alone"
        elif run.host != platform.node():
            last_sign = f", last sign of life {_ago(run.heartbeat)}" if run.heartbeat else ""
            yield f"{title} says RUNNING on {run.host}{last_sign}: left alone; repair it there"
        elif run.folder != runs.work / run.folder.name:  # nothing is touched elsewhere because a server names it
            yield f"{title} says RUNNING and belongs to {run.folder.parent.parent}: repair it there"
        elif run.folder.name in with_journal or (run.folder.is_dir() and is_alive(run.folder)):
            continue
        else:
            if not dry_run:
                tracking.close_run(runs, run.run_id)
            yield f"{title} said RUNNING, but its process has died: KILLED"


def _flow_runs(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Mark flow runs as crashed whose process has died."""
    runs = folders.runs
    dead = crashed_runs.dead(runs)
    if not (dead or crashed_runs.says_that_some_run(runs)):
        return
    with prefect_server.at_hand(runs) as server:
        server.wait()
        own = prefect_server.keeps_its_own_history(runs)
        if dry_run:
            yield from (f"flow run {path.name} in Prefect is to be crashed: its process died" for path in dead)
        else:
            yield from crashed_runs.close(runs, server.api if own else "")
        if own:
            with connected(runs, server.api, is_own=True):
                yield from crashed_runs.close_unwatched(runs, dry_run)


def _files(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Remove half-written files."""
    for path in leftovers(folders, data_cache()):
        if dry_run:
            yield f"{path} is half-written: to be removed"
            continue
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"Cannot remove {path}: {error.strerror}.") from error
        yield f"removed {path}"


def _name(folder: Path) -> str:
    manifest = Manifest.of(folder)
    return manifest.name if manifest else folder.name  # killed before it was written, or of another version


def _ago(time: str) -> str:
    seconds = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(time)).total_seconds()
    if seconds < 7200:
        return f"{count(round(seconds / 60), 'minute')} ago"
    return f"{count(round(seconds / 3600), 'hour')} ago"
