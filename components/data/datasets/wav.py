"""Sound: your own .wav files, in a folder for each class; wav:PATH.

PATH/train/CLASS/*.wav, perhaps with val and test beside train, or PATH/CLASS/*.wav alone. Licence: yours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.class_folders import origin, read_tree
from torchmill.components.data.formats.sound_fields import listed
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError
from torchmill.components.reading.sound import SUFFIXES, Sound, Unusable, read_wav
from torchmill.components.wording import count

NAMED_FIELDS = True

NAME, LABEL = "audio", "label"


def load(
    path: Path,
    rate: Annotated[int | None, Field(ge=1, le=1_000_000)] = None,
    channels: Literal["as_stored", "mono"] = "as_stored",
    seconds: Annotated[float | None, Field(ge=0.001, le=86400)] = None,
    unreadable_share: Annotated[float, Field(ge=0, le=1)] = 0.05,
) -> FieldSplits:
    """Read sounds as a field ``audio``, float32 from -1 to 1, with their lengths, and a ``label``.

    Args:
        rate: rate in Hz that all sounds are resampled to; without it, they must have one.
        channels: keep channels as they are stored, or average them.
        seconds: longest part of a sound, from its beginning; the rest is cut off.
        unreadable_share: largest share of files that are left out because they can't be read.

    Raises:
        UserError: as ``read_tree``; too many files can't be read; rates or numbers of channels differ.
    """
    tree = read_tree(path, SUFFIXES, "sounds")
    sounds, faults = _read(tree.splits, path)
    total = sum(map(len, tree.splits.values()))
    if len(faults) > unreadable_share * total:
        raise UserError(
            f"{len(faults):,} of {total:,} sounds in {path} can't be used: {listed(faults)}.",
            "Mend or remove them, or allow more by --data.args.unreadable_share.",
        )
    returned: dict[str, Any] = {
        split: {NAME: [sound for sound, _ in part], LABEL: np.array([label for _, label in part])}
        for split, part in sounds.items()
    }
    rules = {"rate": rate, "channels": channels, "seconds": seconds}
    options = {"targets": [LABEL], "names": {LABEL: tree.classes}, **rules}
    origins = {split: [sound.name for sound, _ in part] for split, part in sounds.items()}
    splits = load_fields({**returned, **options}, str(path), origins=origins)
    left_out = [f"left out: {count(len(faults), 'sound')} that can't be used: {listed(faults)}"] if faults else []
    return replace(splits, notes=(*tree.notes, *splits.notes, *left_out))


def _read(
    splits: Mapping[str, Sequence[tuple[Path, int]]], root: Path
) -> tuple[dict[str, list[tuple[Sound, int]]], list[str]]:
    """Return sounds with their classes by split, and the faults of files that can't be read."""
    sounds: dict[str, list[tuple[Sound, int]]] = {}
    faults = []
    for split, members in splits.items():
        sounds[split] = []
        for file, label in members:
            try:
                sounds[split].append((replace(read_wav(file), name=origin(file, root)), label))
            except Unusable as error:
                faults.append(f"{origin(file, root)} {error}")
        if not sounds[split]:
            raise UserError(f"{root}: no sound of {split} can be used: {listed(faults)}.")
    return sounds, faults
