"""Fields of sound files as waveforms of one rate."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.batches.field_refs import SoundRules
from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.reading.sound import SUFFIXES, Sound, Unusable, fitted, read_wav
from torchmill.components.wording import percent

OPTIONS = ("rate", "channels", "seconds")
"""Keys beside the splits that say how sounds become waveforms."""

AS_STORED, MONO = "as_stored", "mono"
MOST_TOLD = 3
"""Files that an error lists."""

Columns = dict[str, dict[str, Any]]
"""Values of each field, by split and name."""


@dataclass(frozen=True)
class Sounds:
    """The fields that hold sound."""

    rules: Mapping[str, SoundRules]
    """Rules by field."""
    notes: tuple[str, ...] = ()

    def traits(self, name: str) -> dict[str, Any]:
        """Return the entries of a field's description that sounds have. Waveforms keep their scale: silence is 0."""
        return {"kind": "audio", "sound": self.rules[name]} if name in self.rules else {}


def opened_sounds(columns: Columns, options: Mapping[str, Any], place: str) -> tuple[Columns, Sounds]:
    """Return fields with waveforms in place of sounds and of ``.wav`` files, and the fields that are sound.

    Args:
        options: the user's "rate" in Hz, "channels" ("as_stored" or "mono") and "seconds".

    Raises:
        UserError: files can't be read; rates or numbers of channels differ; an option has an impossible value.
    """
    names = [name for name, values in columns["train"].items() if _holds_sounds(values)]
    if not names:
        return columns, Sounds({})
    _check(options, place)
    changed = {split: dict(part) for split, part in columns.items()}
    rules: dict[str, SoundRules] = {}
    notes: list[str] = []
    for name in names:
        where = f"{place} field '{name}'"
        sounds = {split: _read(part[name], where) for split, part in columns.items()}
        every = [sound for part in sounds.values() for sound in part]
        rate, is_mono = options.get("rate"), options.get("channels") == MONO
        rules[name] = SoundRules(rate=rate or _only_rate(every, where), resample=rate is not None, mono=is_mono)
        channels = 1 if is_mono else _only_channels(every, where)
        waveforms = {split: [fitted(sound, rules[name], channels) for sound in part] for split, part in sounds.items()}
        notes += _notes(waveforms, rules[name], options.get("seconds"))
        most = None if options.get("seconds") is None else max(1, round(options["seconds"] * rules[name].rate))
        for split, part in waveforms.items():
            changed[split][name] = [waveform[:most] for waveform in part]
    return changed, Sounds(rules, tuple(notes))


def _holds_sounds(values: Any) -> bool:
    """Return True for sounds, and for paths or names of sound files; the first file has to exist."""
    if not isinstance(values, list) or not values:
        return False
    first = values[0]
    if isinstance(first, str):
        return first.lower().endswith(tuple(SUFFIXES)) and Path(first).expanduser().is_file()
    return isinstance(first, Sound) or (isinstance(first, Path) and first.suffix.lower() in SUFFIXES)


def _check(options: Mapping[str, Any], place: str) -> None:
    rate, channels, seconds = (options.get(name) for name in OPTIONS)
    if rate is not None and (not isinstance(rate, int) or isinstance(rate, bool) or rate < 1):
        raise UserError(f"{place}: rate is {rate!r}, not a whole number of Hz.")
    if channels not in (None, AS_STORED, MONO):
        raise UserError(f"{place}: unknown channels {channels!r}.", nearest(str(channels), (AS_STORED, MONO)))
    if seconds is not None and (not isinstance(seconds, int | float) or seconds <= 0):
        raise UserError(f"{place}: seconds is {seconds!r}, not a number above 0.")


def _read(values: Sequence[Any], place: str) -> list[Sound]:
    sounds, faults = [], []
    for number, value in enumerate(values):
        if isinstance(value, Sound):
            sounds.append(value)
            continue
        try:
            sounds.append(read_wav(Path(value).expanduser()))
        except (Unusable, TypeError) as error:
            faults.append(f"number {number}, {value}, {error}")
    if faults:
        raise UserError(f"{place}: {listed(faults)}.")
    return sounds


def listed(faults: Sequence[str]) -> str:
    """Return the first faults in words, and the number of the others."""
    return "; ".join(faults[:MOST_TOLD]) + f"; and {len(faults) - MOST_TOLD:,} more" * (len(faults) > MOST_TOLD)


def _only_rate(sounds: Sequence[Sound], place: str) -> int:
    rates = [sound.rate for sound in sounds]
    return _only(sounds, rates, f"{place} has several rates", "Hz", "--data.args.rate {} resamples all")


def _only_channels(sounds: Sequence[Sound], place: str) -> int:
    numbers = [sound.channels for sound in sounds]
    message = f"{place} has several numbers of channels"
    return _only(sounds, numbers, message, "channels", "--data.args.channels mono averages them")


def _only(sounds: Sequence[Sound], values: Sequence[int], message: str, unit: str, remedy: str) -> int:
    """Return the only value.

    Raises:
        UserError: there are several.
    """
    counts = Counter(values)
    if len(counts) > 1:
        first = {value: sound.name for sound, value in reversed([*zip(sounds, values, strict=True)])}
        parts = [f"{number:,} of {value:,} {unit} ({first[value]})" for value, number in counts.most_common()]
        raise UserError(
            f"{message}: {shortened(parts, 4)}.",
            f"{remedy.format(min(counts))}; your own function gives it beside 'train'.",
        )
    return values[0]


def _notes(waveforms: Mapping[str, Sequence[np.ndarray]], rules: SoundRules, seconds: float | None) -> Iterator[str]:
    lengths = np.array([len(each) / rules.rate for part in waveforms.values() for each in part])
    how = ", resampled" * rules.resample + ", channels averaged" * rules.mono
    low, middle, high = lengths.min(), np.median(lengths), lengths.max()
    yield f"{rules.rate:,} Hz{how}, {low:.3g} to {high:.3g} s, {middle:.3g} s in the median"
    if seconds is not None and (cut := float((lengths > seconds).mean())):
        yield f"{percent(cut)} of the sounds are cut after {seconds:g} s (seconds)"
