"""Sound: your own .wav files, in a folder for each class; wav:PATH.

PATH/train/CLASS/*.wav, perhaps with val and test beside train, or PATH/CLASS/*.wav alone. Licence: yours.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from torchmill.components.batches.field_refs import FieldRef, SoundRules
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.formats.class_folders import origin, read_tree
from torchmill.components.data.formats.user_fields import load_fields
from torchmill.components.errors import UserError, shortened
from torchmill.components.reading.sound import SUFFIXES, Sound, Unusable, fitted, read_wav
from torchmill.components.wording import count, percent

NAMED_FIELDS = True

NAME, LABEL = "audio", "label"
MOST_TOLD = 3
"""Files that an error lists."""


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
            f"{len(faults):,} of {total:,} sounds in {path} can't be used: {_listed(faults)}.",
            "Mend or remove them, or allow more by --data.args.unreadable_share.",
        )
    every = [(name, sound) for part in sounds.values() for name, sound, _ in part]
    rules = SoundRules(rate=rate or _only_rate(every), resample=rate is not None, mono=channels == "mono")
    width = 1 if rules.mono else _only_channels(every)
    returned: dict[str, Any] = {"targets": [LABEL], "names": {LABEL: tree.classes}}
    most, cut = None if seconds is None else round(seconds * rules.rate), 0
    for split, part in sounds.items():
        waveforms = [fitted(sound, rules, width) for _, sound, _ in part]
        cut += sum(len(waveform) > most for waveform in waveforms) if most else 0
        returned[split] = {
            NAME: [waveform[:most] for waveform in waveforms],
            LABEL: np.array([label for _, _, label in part]),
        }
    notes = _notes(returned, rules, faults, total, cut, seconds)
    splits = load_fields(
        returned, str(path), origins={split: [row[0] for row in part] for split, part in sounds.items()}
    )
    fields = tuple(_as_sound(field, rules) if field.name == NAME else field for field in splits.fields)
    return replace(splits, fields=fields, notes=(*tree.notes, *notes))


def _as_sound(field: FieldRef, rules: SoundRules) -> FieldRef:
    """Return the field with its rules; waveforms keep their scale, so that silence stays 0."""
    return field.model_copy(update={"kind": "audio", "sound": rules, "mean": (), "std": ()})


def _read(
    splits: Mapping[str, Sequence[tuple[Path, int]]], root: Path
) -> tuple[dict[str, list[tuple[str, Sound, int]]], list[str]]:
    """Return names, sounds and classes by split, and the faults of files that can't be read."""
    sounds: dict[str, list[tuple[str, Sound, int]]] = {}
    faults = []
    for split, members in splits.items():
        sounds[split] = []
        for file, label in members:
            try:
                sounds[split].append((origin(file, root), read_wav(file), label))
            except Unusable as error:
                faults.append(f"{origin(file, root)} {error}")
        if not sounds[split]:
            raise UserError(f"{root}: no sound of {split} can be used: {_listed(faults)}.")
    return sounds, faults


def _listed(faults: Sequence[str]) -> str:
    return "; ".join(faults[:MOST_TOLD]) + f"; and {len(faults) - MOST_TOLD:,} more" * (len(faults) > MOST_TOLD)


def _only_rate(sounds: Sequence[tuple[str, Sound]]) -> int:
    return _only(sounds, [sound.rate for _, sound in sounds], "rates", "Hz", "--data.args.rate {} resamples all")


def _only_channels(sounds: Sequence[tuple[str, Sound]]) -> int:
    numbers = [sound.channels for _, sound in sounds]
    return _only(sounds, numbers, "numbers of channels", "channels", "--data.args.channels mono averages them")


def _only(sounds: Sequence[tuple[str, Sound]], values: Sequence[int], noun: str, unit: str, remedy: str) -> int:
    """Return the only value.

    Raises:
        UserError: there are several.
    """
    counts = Counter(values)
    if len(counts) > 1:
        first = {value: name for (name, _), value in reversed([*zip(sounds, values, strict=True)])}
        parts = [f"{number:,} of {value:,} {unit} ({first[value]})" for value, number in counts.most_common()]
        raise UserError(f"Sounds have several {noun}: {shortened(parts, 4)}.", remedy.format(min(counts)) + ".")
    return values[0]


def _notes(
    returned: Mapping[str, Any], rules: SoundRules, faults: Sequence[str], total: int, cut: int, seconds: float | None
) -> list[str]:
    lengths = [len(each) / rules.rate for part in returned.values() if NAME in part for each in part[NAME]]
    how = ", resampled" * rules.resample + ", channels averaged" * rules.mono
    notes = [
        f"{rules.rate:,} Hz{how}, {min(lengths):.3g} to {max(lengths):.3g} s, {np.median(lengths):.3g} s in the median"
    ]
    notes += [f"{percent(cut / total)} of the sounds are cut after {seconds:g} s (seconds)"] if cut else []
    notes += [f"left out: {count(len(faults), 'sound')} that can't be used: {_listed(faults)}"] if faults else []
    return notes
