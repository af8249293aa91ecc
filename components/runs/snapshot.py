"""A run's snapshot: its configuration, the user's source code and the changes that git had not committed."""

import shutil
import subprocess
from pathlib import Path

import yaml

from torchmill.components.config import RunConfig, load
from torchmill.components.files import write_text
from torchmill.components.initialization.config import TORCHVISION
from torchmill.components.runs.fingerprint import source_of, user_code

USER_CODE_FIELDS = {"data": "name", "model": "name", "train": "loss"}
"""Fields of the configuration's sections that may name the user's code."""


def write_snapshot(config: RunConfig, folder: Path) -> dict[Path, str]:
    """Write ``config.yaml``, ``code/`` and ``git.diff`` into a folder; return the files, each with its subfolder."""
    settings = folder / "config.yaml"
    write_text(settings, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    files = {settings: ""}
    references = [
        name for section in USER_CODE_FIELDS for name in user_code(getattr(config, section)) if is_users(name)
    ]
    for name, file in [item for reference in references for item in source_of(reference).files.items()]:
        copy = folder / "code" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        files[copy] = str(copy.parent.relative_to(folder))
    diff = git("diff", "HEAD", "--no-ext-diff")
    if diff:
        write_text(folder / "git.diff", diff)
        files[folder / "git.diff"] = ""
    return files


def read_snapshot(folder: Path) -> RunConfig:
    """Return a snapshot's configuration. Its references point to the source code in the snapshot.

    Raises:
        UserError: there is no snapshot, or another version of Torchmill wrote it.
    """
    config = load(folder / "config.yaml")
    for name, field in USER_CODE_FIELDS.items():
        section = getattr(config, name)
        for reference in filter(is_users, user_code(section)):
            changed = section.model_copy(update={field: _in_snapshot(reference, folder / "code")})
            config = config.model_copy(update={name: changed})
    return config


def is_users(reference: str) -> bool:
    """Return True if a reference names the user's code, and not a network of ours or torchvision's."""
    place = reference.rpartition(":")[0]
    return bool(place) and place != TORCHVISION


def _in_snapshot(reference: str, code: Path) -> str:
    place, _, name = reference.rpartition(":")
    if not place.endswith(".py"):
        place = f"{place.replace('.', '/')}.py"
    # The configuration may name the file from within the tree that the snapshot copied: look for it by name.
    (copy, *_) = sorted(code.rglob(Path(place).name), key=lambda path: len(path.parts))
    return f"{copy}:{name}"


def git(*arguments: str) -> str | None:
    """Return git's output in the current folder; None without git, a repository or a commit."""
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.decode("utf-8", errors="replace")
