"""Sound files: .wav of 8, 16, 24 or 32 bits or of fractions, as waveforms from -1 to 1."""

import math
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchmill.components.batches.field_refs import SoundRules

SUFFIXES = frozenset({".wav", ".wave"})

FASTEST = 1_000_000
"""Largest rate in Hz; damaged headers name more."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A decoded file."""

    waveform: np.ndarray
    """float32 (steps,) of one channel, or (steps, channels)."""
    rate: int
    """Steps a second, Hz."""
    name: str = ""
    """Name for people, for example the file."""

    @property
    def channels(self) -> int:
        return 1 if self.waveform.ndim == 1 else self.waveform.shape[1]


class Unusable(Exception):
    """A file that can't be read, or has another rate or number of channels; the message says why."""


def read_wav(file: Path) -> Sound:
    """Read a file.

    Raises:
        Unusable: it is missing, damaged, empty or compressed.

    Example:
        >>> read_wav(Path("a.wav")).rate  # doctest: +SKIP
        16000
    """
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # chunks that hold no sound, such as titles
            rate, values = wavfile.read(file)
    except OSError as error:
        raise Unusable(f"can't be read: {error.strerror}") from None
    except (ValueError, EOFError, struct.error) as error:
        raise Unusable(f"is no sound of a known form: {' '.join(str(error).split())}") from None
    if not values.size:
        raise Unusable("is empty")
    if not 0 < rate <= FASTEST:
        raise Unusable(f"has a rate of {rate:,} Hz")
    waveform = _fractions(values)
    if not np.isfinite(waveform).all():
        raise Unusable("holds values that are no finite numbers")
    return Sound(waveform[:, 0] if waveform.ndim == 2 and waveform.shape[1] == 1 else waveform, int(rate), str(file))


def _fractions(values: np.ndarray) -> np.ndarray:
    """Return the steps of a file as float32 from -1 to 1; 24 bits fill the upper ones of int32."""
    if values.dtype == np.uint8:  # 8 bits have no sign
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return (values / float(2 ** (8 * values.dtype.itemsize - 1))).astype(np.float32)
    return values.astype(np.float32)


def fitted(sound: Sound, rules: SoundRules, channels: int) -> np.ndarray:
    """Return a waveform by the rules.

    Args:
        channels: channels of the waveform; 1 gives (steps,).

    Raises:
        Unusable: the rules change neither its rate nor its channels, and these are others.
    """
    waveform = sound.waveform
    if rules.mono and waveform.ndim == 2:
        waveform = waveform.mean(1)
    if sound.rate != rules.rate:
        if not rules.resample:
            raise Unusable(f"has {sound.rate:,} Hz, not {rules.rate:,}")
        waveform = resampled(waveform, sound.rate, rules.rate)
    actual = 1 if waveform.ndim == 1 else waveform.shape[1]
    if actual != channels:
        raise Unusable(f"has {actual} channels, not {channels}")
    return waveform


def resampled(waveform: np.ndarray, rate: int, goal: int) -> np.ndarray:
    """Return a waveform (steps, …) at another rate, by a polyphase filter without aliasing."""
    from scipy.signal import resample_poly

    divisor = math.gcd(rate, goal)
    return resample_poly(waveform, goal // divisor, rate // divisor, axis=0).astype(np.float32)
