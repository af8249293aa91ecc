"""Arrays: your own .npz file, whose arrays are fields, or a folder of .npy files; arrays:PATH.

Names of splits begin or end the names of arrays (image_train), or are folders (train/image.npy) or files (train.npz).
Licence: yours.
"""

from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.split_names import by_split, split_of
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError, nearest, shortened

NAMED_FIELDS = True

Fields = dict[str, np.ndarray]

LAYOUT = "Save fields with numpy.savez('data.npz', image=…, mask=…), or each with numpy.save('data/image.npy', …)."


def load(
    path: Path,
    split: Literal["random", "last"] = "random",
    targets: str | list[str] = "",
    groups: str = "",
) -> FieldSplits:
    """Read arrays (N, …) as named fields.

    Args:
        split: cut of splits that are not there, as --data.split says.
        targets: fields that no network takes, separated by commas or as a list; without it those that are called
            target, label, mask, y and the like.
        groups: array (N,) that tells which samples belong together; it is no field.

    Raises:
        UserError: arrays are missing, damaged, of different lengths, or hold no numbers.
    """
    parts = _parts(path)
    names = [name.strip() for name in (targets.split(",") if isinstance(targets, str) else targets) if name.strip()]
    returned: dict[str, object] = dict(parts)
    if groups:
        if groups not in parts["train"]:
            raise UserError(f"{path} has no array '{groups}' of groups.", nearest(groups, parts["train"]))
        returned["groups"] = parts["train"][groups]
        returned |= {
            part: {name: values for name, values in fields.items() if name != groups} for part, fields in parts.items()
        }
    if names:
        returned["targets"] = names
    return load_fields(returned, str(path), in_order=split == "last")


def _parts(path: Path) -> dict[str, Fields]:
    """Return the arrays by split and name."""
    if not path.is_dir():
        return _of_splits(_opened([path]))
    folders = {split_of(each.name): each for each in sorted(path.iterdir()) if each.is_dir() and split_of(each.name)}
    files = sorted(each for each in path.iterdir() if each.suffix in (".npy", ".npz"))
    if "train" in folders:
        return {split: _opened(sorted(folder.glob("*.npy")), folder) for split, folder in folders.items()}
    splits = {split_of(file.stem): file for file in files if file.suffix == ".npz"}
    if "train" in splits and "" not in splits:
        return {split: _opened([file]) for split, file in splits.items()}
    return _of_splits(_opened([file for file in files if file.suffix == ".npy"], path))


def _of_splits(arrays: Fields) -> dict[str, Fields]:
    return {split: {field: arrays[name] for field, name in names.items()} for split, names in by_split(arrays).items()}


def _opened(files: list[Path], folder: Path | None = None) -> Fields:
    """Return the arrays of some files by name; those of .npy files are mapped into memory.

    Raises:
        UserError: there are none, or files are damaged; all of them are named.
    """
    arrays: Fields = {}
    faults = []
    for file in files:
        try:
            content = np.load(file, mmap_mode="r", allow_pickle=False)
            names = (
                {file.stem: content} if isinstance(content, np.ndarray) else {name: content[name] for name in content}
            )
        except (OSError, ValueError, EOFError, BadZipFile) as error:
            pickled = any(words in str(error) for words in ("Python objects", "Object arrays", "allow_pickle"))
            reason = "holds Python objects, or is no file of numpy's" if pickled else " ".join(str(error).split())[:120]
            faults.append(f"{file} can't be read: {reason}")
            continue
        faults += [f"{file}: '{name}' is a single number" for name, values in names.items() if not values.ndim]
        arrays |= names
    if faults:
        raise UserError("; ".join(faults) + ".", LAYOUT)
    if not arrays:
        present = sorted(each.name for each in folder.iterdir()) if folder else []
        raise UserError(
            f"{folder or files[0]} has no arrays{f': it has {shortened(present)}' * bool(present)}.", LAYOUT
        )
    return arrays
