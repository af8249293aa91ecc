"""What a run was made from, as files: its configuration, the network's source, what git did not have."""

import shutil
import subprocess
from pathlib import Path

import yaml

from torchmill.components.config import RunConfig, load
from torchmill.components.files import write_text
from torchmill.components.initialization.config import TORCHVISION
from torchmill.components.runs.fingerprint import source_of, user_code

# Where a configuration may name code of the user's own.
OWN = {"data": "name", "model": "name", "train": "loss"}


def write_snapshot(config: RunConfig, folder: Path) -> dict[Path, str]:
    """Write ``config.yaml``, ``code/`` and ``git.diff`` into ``folder``; gives each file's folder below it."""
    described = folder / "config.yaml"
    write_text(described, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    files = {described: ""}
    references = [name for section in OWN for name in user_code(getattr(config, section)) if is_own(name)]
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
    """Give the configuration of a recipe, with the user's source as it was then.

    Raises:
        UserError: there is none, or another version of Torchmill wrote it.
    """
    config = load(folder / "config.yaml")
    for section, field in OWN.items():
        held = getattr(config, section)
        for reference in filter(is_own, user_code(held)):
            changed = held.model_copy(update={field: _recorded(reference, folder / "code")})
            config = config.model_copy(update={section: changed})
    return config


def is_own(reference: str) -> bool:
    """Tell whether a reference is to the user's code, and not to a network of ours or of torchvision's."""
    place = reference.rpartition(":")[0]
    return bool(place) and place != TORCHVISION


def _recorded(reference: str, code: Path) -> str:
    place, _, name = reference.rpartition(":")
    if not place.endswith(".py"):
        place = f"{place.replace('.', '/')}.py"
    # Names of source files are relative to the root of their tree, of which the configuration knows but the end.
    (copy, *_) = sorted(code.rglob(Path(place).name), key=lambda path: len(path.parts))
    return f"{copy}:{name}"


def git(*arguments: str) -> str | None:
    """What git says in the current directory; None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
