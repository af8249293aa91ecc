"""`torchmill repair`: close what died, send what was kept, remove what is half-written, follow a folder that moved."""

import datetime
import platform
from collections.abc import Iterator
from pathlib import Path

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.runs.claim import Manifest, is_alive
from torchmill.components.runs.cleanup import leftovers
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.flows.services import crashed_runs as interrupted
from torchmill.flows.services import prefect_server


def repair(runs: Runs, dry_run: bool) -> int:
    """Mend what can be mended and say what was done, or only what would be; gives the exit code."""
    print(f"{runs.folder}{':  only looked at, nothing is changed' if dry_run else ''}", flush=True)
    count = 0
    failed = False
    for part in (_addresses, _kept, _running, _flow_runs, _files):
        try:
            for line in part(runs, dry_run):
                count += 1
                print(f"  {line}", flush=True)
        except UserError as error:  # a server that is away: what doesn't need it is mended all the same
            failed = True
            print(f"  {error}", flush=True)
    if not (count or failed):
        print("  nothing to mend", flush=True)
    return 1 if failed else 0


def _addresses(runs: Runs, dry_run: bool) -> Iterator[str]:
    for former in tracking.former_addresses(runs) if dry_run else tracking.relocate(runs):
        yield f"addresses of artifacts: from {former.removeprefix('file://')} to {runs.folder}"


def _kept(runs: Runs, dry_run: bool) -> Iterator[str]:
    if dry_run:
        for folder in tracking.pending_runs(runs):
            yield f"run {_name(folder)}: MLflow is to be told what it has not got, and how it ended"
    else:
        for folder, outcome in tracking.deliver_pending(runs).items():
            yield (
                f"run {_name(folder)}: {outcome}, and MLflow has all of it"
                if outcome.isupper()
                else (f"run {_name(folder)}: kept, since {outcome}")
            )


def _running(runs: Runs, dry_run: bool) -> Iterator[str]:
    """Runs that MLflow calls running, and that no journal here accounts for."""
    accounted = {folder.name for folder in tracking.pending_runs(runs)}
    for run in tracking.running_runs(runs):
        if run.folder is None:
            yield f"run {run.name} ({run.run_id}) says RUNNING; Torchmill did not start it: left alone"
        elif run.host != platform.node():
            heard = f", last heard {_ago(run.heartbeat)}" if run.heartbeat else ""
            yield f"run {run.name} ({run.run_id}) says RUNNING on {run.host}{heard}: left alone; repair it there"
        elif run.folder.name in accounted or (run.folder.is_dir() and is_alive(run.folder)):
            continue
        elif run.folder.parent.parent != runs.folder:
            yield f"run {run.name} ({run.run_id}) says RUNNING and is of {run.folder.parent.parent}: repair it there"
        else:
            if not dry_run:
                tracking.close_run(runs, run.run_id)
            yield f"run {run.name} ({run.run_id}) said RUNNING and is gone: KILLED"


def _flow_runs(runs: Runs, dry_run: bool) -> Iterator[str]:
    dead = interrupted.dead(runs)
    if not (dead or interrupted.says_that_some_run(runs)):
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with prefect_server.at_hand(runs) as server:
        server.wait()
        own = prefect_server.keeps_its_own_history(runs)
        if dry_run:
            yield from (f"flow run {path.name} in Prefect is to be crashed: its process died" for path in dead)
        else:
            yield from interrupted.close(runs, server.api if own else "")
        if own:
            with temporary_settings({PREFECT_API_URL: server.api}):
                yield from interrupted.close_unwatched(runs, dry_run)


def _files(runs: Runs, dry_run: bool) -> Iterator[str]:
    for path in leftovers(runs, data_cache()):
        if not dry_run:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(f"Cannot remove {path}: {error.strerror}.") from error
        yield f"removed {path}" if not dry_run else f"{path} is half-written: to be removed"


def _name(folder: Path) -> str:
    try:
        return Manifest.of(folder).name
    except (OSError, ValueError):  # killed before it was written, or of another version
        return folder.name


def _ago(clock: str) -> str:
    seconds = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(clock)).total_seconds()
    return f"{seconds / 60:.0f} minutes ago" if seconds < 7200 else f"{seconds / 3600:.0f} hours ago"
