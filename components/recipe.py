"""What a run was made from, as files: its configuration, the network's source, what git did not have."""

import shutil
import subprocess
from pathlib import Path

import yaml

from components.config import RunConfig, load
from components.files import write_text
from components.ingredients import source_of


def write_recipe(config: RunConfig, folder: Path) -> dict[Path, str]:
    """Write ``config.yaml``, ``code/`` and ``git.diff`` into ``folder``; gives each file's folder below it."""
    described = folder / "config.yaml"
    write_text(described, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    files = {described: ""}
    if ":" in config.model.name:
        for name, file in source_of(config.model.name).files.items():
            copy = folder / "code" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            files[copy] = str(copy.parent.relative_to(folder))
    diff = git("diff", "HEAD", "--no-ext-diff")
    if diff:
        write_text(folder / "git.diff", diff)
        files[folder / "git.diff"] = ""
    return files


def read_recipe(folder: Path) -> RunConfig:
    """Give the configuration of a recipe, with the network's source as it was then.

    Raises:
        UserError: there is none, or another version of Torchmill wrote it.
    """
    config = load(folder / "config.yaml")
    place, _, name = config.model.name.rpartition(":")
    if not place:
        return config
    if not place.endswith(".py"):
        place = f"{place.replace('.', '/')}.py"
    # Names of source files are relative to the root of their tree, of which the configuration knows but the end.
    (copy, *_) = sorted((folder / "code").rglob(Path(place).name), key=lambda path: len(path.parts))
    model = config.model.model_copy(update={"name": f"{copy}:{name}"})
    return config.model_copy(update={"model": model})


def git(*arguments: str) -> str | None:
    """What git says in the current directory; None where there is no git, no repository or no commit."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", errors="replace")
