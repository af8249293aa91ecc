"""The manifest of a prepared data set, and the digests of its files."""

import hashlib
import json
from pathlib import Path
from typing import Any

from torchmill.components import files
from torchmill.components.data import lost_cells
from torchmill.components.data.content import digests_file
from torchmill.components.data.field_splits import groups_file
from torchmill.components.data.origins import origins_file
from torchmill.components.encoding import columns, texts
from torchmill.components.refs import DataRef

FORMAT = 4
"""Version of the cache's format. A change prepares all data anew."""

SPLITS = ("train", "validation", "test")

BESIDE = frozenset(place(Path(), split).name for place in (origins_file, digests_file) for split in SPLITS)
"""Files about samples that are no part of the data's digest."""


def begin(folder: Path) -> None:
    """Remove what describes a former preparation, so that a kill from here on leaves no manifest of other files."""
    with files.writing(folder):
        for stale in (
            *(folder / "manifest.json", folder / columns.FILE, groups_file(folder), folder / lost_cells.FILE),
            *(folder / name for name in texts.FILES),
            *(origins_file(folder, split) for split in SPLITS),
        ):
            stale.unlink(missing_ok=True)
        files.sync_folder(folder)


def describe(ref: DataRef, definition: str, digests: dict[str, str], places: list[Any]) -> None:
    """Write the manifest of a data set.

    Args:
        digests: digests of the files by name.
        places: files and folders that the user's function read.
    """
    # Without the folder, so that a cache can be moved, or mounted elsewhere.
    data = ref.model_dump(mode="json", exclude={"folder"})
    entries = {"format": FORMAT, "definition": definition, "data": data, "files": digests, "reads": places}
    write_manifest(ref.folder, entries)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the entries of a manifest, atomically."""
    with files.new_file(folder / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())


def digest_of(digests: dict[str, str]) -> str:
    """Return the digest of the files to learn from."""
    deciding = [digest for name, digest in digests.items() if name not in BESIDE]
    return hashlib.sha256("".join(deciding).encode()).hexdigest()


def digest_of_digests(digests: dict[str, str]) -> str:
    """Return the digest of the samples' digests."""
    names = (digests_file(Path(), split).name for split in SPLITS)
    return hashlib.sha256("".join(digests[name] for name in names if name in digests).encode()).hexdigest()
