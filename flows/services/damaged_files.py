"""Search of a folder of runs for damaged state files."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchmill.components import tracking
from torchmill.components.runs.checked_folders import CheckedFolders
from torchmill.components.runs.claim import mend_index
from torchmill.components.state_files import Damaged, open_file, parse_json, set_aside
from torchmill.components.wording import count
from torchmill.flows.services.up_state import Ports, SharedServer, UpState

SERVICE_FILES: dict[str, Any] = {"up.json": UpState, "ports.json": Ports, "prefect.json": SharedServer}
"""Files of services in the working folder, and their shapes."""

STATE_FILES: dict[str, Any] = {"sent.json": tracking.Progress, "run.json": dict, "result.json": dict}
"""Files in the folders of runs and steps, and their shapes.

A plain ``dict`` may come from another version, with other keys: that is no damage.
"""


def mend_files(folders: CheckedFolders, dry_run: bool) -> Iterator[str]:
    """Set damaged state files aside, rebuild the index from other files, and yield a line on each.

    Nothing else has to be rebuilt: a step or a run without a result is done again, and records whose delivery is
    unknown are sent again, which changes nothing in MLflow.
    """
    for name, shape in SERVICE_FILES.items():
        yield from _mend_file(folders, folders.runs.work / name, shape, dry_run)
    for folder in folders.changed:
        for name, shape in STATE_FILES.items():
            yield from _mend_file(folders, folder / name, shape, dry_run)
    for folder, lines in tracking.mend_journals(folders, dry_run).items():
        outcome = "to be blanked" if dry_run else "blanked; the file as it was lies beside it"
        yield f"{folder.name}/journal.jsonl has {count(lines, 'damaged line')}: {outcome}"
    yield from mend_index(folders, dry_run)


def _mend_file(folders: CheckedFolders, path: Path, shape: Any, dry_run: bool) -> Iterator[str]:
    inode = 0
    try:
        with open_file(path) as file:
            inode = os.fstat(file.fileno()).st_ino
            parse_json(file.read(), shape)
    except Damaged as error:
        folders.doubt(path)
        aside = None if dry_run else set_aside(path, error, inode, quiet=True)
        outcome = f"renamed to {aside.name}" if aside else "to be set aside" if dry_run else "it stays"
        yield f"{path.relative_to(folders.runs.folder)} is damaged: {error}: {outcome}"
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:  # another user's
        folders.doubt(path)
