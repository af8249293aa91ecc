"""A run's snapshot: its configuration, the user's source code and the changes that git had not committed."""

import itertools
import shutil
import subprocess
from pathlib import Path

import yaml

from torchmill.components.config import RunConfig, parse, read_tree
from torchmill.components.data.config import dataset_names, dataset_place, identity_comment
from torchmill.components.errors import UserError
from torchmill.components.files import write_text
from torchmill.components.initialization.config import TORCHVISION
from torchmill.components.runs.fingerprint import source_of, user_code
from torchmill.components.user_code.reference import source_file

USER_CODE_FIELDS = {"data": "name", "task": "name", "model": "name", "train": "loss"}
"""Fields of the configuration's sections that may name the user's code."""


def write_snapshot(config: RunConfig, folder: Path) -> dict[Path, str]:
    """Write ``config.yaml``, ``code/`` and ``git.diff`` into a folder; return the files, each with its subfolder."""
    settings = folder / "config.yaml"
    recorded = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_text(settings, identity_comment(config.data.name) + recorded)
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
        UserError: there is no snapshot, it lacks the source, or another version of Torchmill wrote it.
    """
    file = folder / "config.yaml"
    tree = read_tree(file)
    # Before the values are checked: the files that they name may be gone from where they were.
    for section, field in USER_CODE_FIELDS.items():
        values = tree.get(section)
        if not isinstance(values, dict):
            continue
        reference = values.get(field)
        if isinstance(reference, str) and _is_users_code(section, reference):
            tree[section] = {**values, field: _in_snapshot(reference, folder / "code")}
    return parse(tree, f"{file}: ")


def _is_users_code(section: str, reference: str) -> bool:
    return is_users(reference) and (section != "data" or dataset_place(reference)[0] not in dataset_names())


def is_users(reference: str) -> bool:
    """Return True if a reference names the user's code, and not a network of ours or torchvision's."""
    place = reference.rpartition(":")[0]
    return bool(place) and place != TORCHVISION


def portable_reference(reference: str) -> str:
    """Return a reference to the user's code that doesn't depend on where its files are; others stay as they are.

    Example:
        >>> portable_reference("/home/ann/work/nets.py:Wide")  # doctest: +SKIP
        'nets.py:Wide'
    """
    if not is_users(reference) or dataset_place(reference)[0] in dataset_names():
        return reference
    place, _, name = reference.rpartition(":")
    file = source_file(place)
    names = [copy for copy, path in source_of(reference).files.items() if path.samefile(file)]
    return f"{names[0] if names else file.name}:{name}"


def _in_snapshot(reference: str, code: Path) -> str:
    """Return a reference to the copy of the user's code.

    The configuration may name a file from within the tree that was copied, or from outside of it. So the copy is the
    file whose path ends most like the reference's.

    Raises:
        UserError: there is no such copy.
    """
    place, _, name = reference.rpartition(":")
    module = place.replace(".", "/")
    paths = [Path(place)] if place.endswith(".py") else [Path(f"{module}.py"), Path(module) / "__init__.py"]
    copies = [
        (_common_end(copy.relative_to(code), path), -len(copy.parts), str(copy))
        for path in paths
        for copy in code.rglob(path.name)
    ]
    if not copies:
        raise UserError(f"The snapshot of this run lacks the source of {reference}.", "It can't be run again.")
    return f"{max(copies)[2]}:{name}"


def _common_end(first: Path, second: Path) -> int:
    """Return the number of equal parts at the end of two paths."""
    pairs = zip(reversed(first.parts), reversed(second.parts), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def git(*arguments: str) -> str | None:
    """Return git's output in the current folder; None without git, a repository or a commit."""
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.decode("utf-8", errors="replace")
