"""Sound files as waveforms, whatever their bits, rates and channels."""

import wave

import numpy as np
import pytest
from scipy.io import wavfile

from torchmill.components.batches.field_refs import SoundRules
from torchmill.components.reading.sound import Unusable, fitted, read_wav

TONE = 0.5 * np.sin(2 * np.pi * 50 * np.arange(800) / 8000)


def save(file, values, rate=8000, bits=16, channels=1):
    """Write whole numbers by the standard library, which knows 24 bits."""
    width = bits // 8
    whole = np.round(values * 2 ** (bits - 1)).astype(np.int64) + (128 if bits == 8 else 0)
    raw = b"".join(int(value).to_bytes(width, "little", signed=bits > 8) for value in whole.ravel())
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(width)
        sound.setframerate(rate)
        sound.writeframes(raw)
    return file


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
def test_whole_numbers_of_all_widths_become_fractions(tmp_path, bits):
    sound = read_wav(save(tmp_path / "a.wav", TONE, bits=bits))
    assert (sound.rate, sound.channels, sound.waveform.dtype) == (8000, 1, np.float32)
    np.testing.assert_allclose(sound.waveform, TONE, atol=max(2.0**-bits, 1e-7) * 1.01)


def test_fractions_and_several_channels_are_kept(tmp_path):
    stereo = np.stack([TONE, -TONE], 1).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", 16000, stereo)
    sound = read_wav(tmp_path / "a.wav")
    assert sound.channels == 2 and np.array_equal(sound.waveform, stereo)
    mixed = fitted(sound, SoundRules(rate=16000, mono=True), 1)
    assert mixed.shape == (800,) and np.abs(mixed).max() == 0


def test_other_rates_are_resampled_only_if_the_rules_say_so(tmp_path):
    sound = read_wav(save(tmp_path / "a.wav", TONE, rate=8000))
    with pytest.raises(Unusable, match="has 8,000 Hz, not 16,000"):
        fitted(sound, SoundRules(rate=16000), 1)
    twice = fitted(sound, SoundRules(rate=16000, resample=True), 1)
    assert len(twice) == 1600
    expected = 0.5 * np.sin(2 * np.pi * 50 * np.arange(1600) / 16000)
    np.testing.assert_allclose(twice[100:-100], expected[100:-100], atol=0.003)  # the filter rings at the ends
    with pytest.raises(Unusable, match="has 1 channels, not 2"):
        fitted(sound, SoundRules(rate=8000), 2)


def test_what_is_no_sound_is_told(tmp_path):
    file = save(tmp_path / "a.wav", TONE)
    whole = file.read_bytes()
    cases = {
        "empty.wav": (b"", "is no sound of a known form"),
        "text.wav": (b"no sound at all, but a text", "is no sound of a known form"),
        "law.wav": (whole[:20] + b"\x06\x00" + whole[22:], "is no sound of a known form: Unknown wave file format"),
        "silent.wav": (save(tmp_path / "b.wav", np.empty(0)).read_bytes(), "is empty"),
        "nan.wav": (b"", "no finite numbers"),
    }
    for name, (content, words) in cases.items():
        (tmp_path / name).write_bytes(content)
        if name == "nan.wav":
            wavfile.write(tmp_path / name, 8000, np.full(9, np.nan, np.float32))
        with pytest.raises(Unusable, match=words):
            read_wav(tmp_path / name)
    with pytest.raises(Unusable, match="can't be read: No such file"):
        read_wav(tmp_path / "missing.wav")
