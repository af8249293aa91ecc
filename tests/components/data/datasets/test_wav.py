"""Folders of sounds: read, trained, exported and predicted."""

import json

import numpy as np
import pytest
import torch

from tests.components.reading.test_sound_files import save
from tests.components.tasks.trials import Trial
from torchmill.components.data.datasets import wav
from torchmill.components.data.fetch import fetch
from torchmill.components.data.named_fields import facts
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.predict_fields import predict_fields

NET = """
import torch
from torch import nn

class Tones(nn.Module):
    def __init__(self, num_classes, sample_rate, width=8):
        super().__init__()
        self.filters = nn.Conv1d(1, width, 33, stride=4)
        self.head = nn.Linear(width, num_classes)

    def forward(self, audio, lengths):
        power = self.filters(audio[:, None]).square()
        steps = torch.arange(power.shape[2], device=power.device)
        inside = (4 * steps + 33 <= lengths[:, None]).to(power.dtype)[:, None]
        return self.head(((power * inside).sum(2) / inside.sum(2).clamp(min=1)).clamp(min=1e-6).log())
"""


def tone(rng, pitch, seconds, rate):
    times = np.arange(int(seconds * rate)) / rate
    return 0.4 * np.sin(2 * np.pi * pitch * times + rng.uniform(0, 6)) + rng.normal(0, 0.01, len(times))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Low and high tones of different lengths."""
    root, rng = tmp_path_factory.mktemp("tones"), np.random.default_rng(0)
    for name, pitch in (("high", 1200), ("low", 300)):
        (root / name).mkdir()
        for number in range(40):
            pitch_of_file = pitch * rng.uniform(0.9, 1.1)
            save(root / name / f"{number}.wav", tone(rng, pitch_of_file, rng.uniform(0.05, 0.12), 4000), rate=4000)
    return root


def test_sounds_are_waveforms_with_lengths_and_a_rate(folder):
    splits = wav.load(folder)
    audio, label, lengths = splits.fields
    assert (audio.kind, audio.ragged, audio.sound.rate, audio.mean) == ("audio", True, 4000, ())
    assert label.names == ("high", "low") and label.is_target and lengths.name == "lengths"
    sounds = splits.arrays["train"]["audio"]
    assert sounds.dtype == np.float32 and 0.3 < np.abs(sounds).max() < 0.5
    assert (sounds[0, splits.arrays["train"]["lengths"][0] :] == 0).all()
    assert splits.origins["test"][0].endswith(".wav")
    assert splits.notes[-1].startswith("4,000 Hz, 0.05")
    shorter = wav.load(folder, rate=2000, seconds=0.06)
    assert shorter.fields[0].shape == (120,) and shorter.fields[0].sound.resample
    assert "Hz, resampled" in shorter.notes[-2] and "are cut after 0.06 s" in shorter.notes[-1]


def test_tones_are_told_apart_from_training_to_prediction(folder, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    data = fetch(f"wav:{folder}", tmp_path / "cache")
    assert (facts(data)["sample_rate"], facts(data)["in_channels"]) == (4000, 1)
    trial = Trial.with_data(tmp_path, data, "classification", f"{tmp_path}/net.py:Tones")
    trial.train(40, size=32)
    assert trial.evaluate()["accuracy"] > 0.95
    ref, _ = trial.export()
    axes = {entry.name: entry.shape for entry in open_session(ref.onnx.path).get_inputs()}
    assert axes == {"audio": ["batch", "length"], "lengths": ["batch"]}
    new, rng = tmp_path / "new", np.random.default_rng(1)
    new.mkdir()
    save(new / "a.wav", tone(rng, 1190, 0.2, 4000), rate=4000, bits=24)  # longer than all of training
    save(new / "b.wav", tone(rng, 310, 0.07, 4000), rate=4000, bits=8)
    save(new / "c.wav", tone(rng, 310, 0.07, 8000), rate=8000)
    done = predict_fields(ref.onnx.path, [new], tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in done.output.read_text().splitlines()]
    assert [row.get("label") for row in rows] == ["high", "low", None] and rows[0]["probabilities"]["high"] > 0.5
    assert rows[2]["error"] == "has 8,000 Hz, not 4,000" and (done.answered, done.unreadable) == (2, 1)
    done = predict_fields(ref.onnx.path, [new / "b.wav"], tmp_path / "out.npz")
    with np.load(done.output) as arrays:
        assert arrays["probabilities"].shape == (1, 2)
    batch = trial.samples().take(torch.arange(2))
    assert batch["audio"].shape[1] == batch["lengths"].max()


def test_faulty_sounds_are_told(folder, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(20):
            rate = 4000 if number else 8000
            save(tmp_path / name / f"{number}.wav", tone(rng, 300, 0.05, rate), rate=rate)
    message = (
        r"several rates: 38 of 4,000 Hz \(a/1\.wav\), 2 of 8,000 Hz \(a/0\.wav\)\. --data\.args\.rate 4000 resamples"
    )
    with pytest.raises(UserError, match=message):
        wav.load(tmp_path)
    assert wav.load(tmp_path, rate=4000).fields[0].sound.resample
    stereo = np.stack([tone(rng, 300, 0.05, 4000)] * 2, 1)
    save(tmp_path / "a" / "0.wav", stereo, rate=4000, channels=2)
    with pytest.raises(UserError, match=r"several numbers of channels: 39 of 1 channels .*--data\.args\.channels mono"):
        wav.load(tmp_path, rate=4000)
    assert wav.load(tmp_path, rate=4000, channels="mono").fields[0].shape[1:] == ()
    (tmp_path / "a" / "1.wav").write_bytes(b"nothing")
    read = wav.load(tmp_path, rate=4000, channels="mono")
    assert read.notes[-1].startswith("left out: 1 sound that can't be used: a/1.wav is no sound")
    for number in range(2, 8):
        (tmp_path / "a" / f"{number}.wav").write_bytes(b"")
    with pytest.raises(UserError, match=r"7 of 40 sounds in .* can't be used: a/1"):
        wav.load(tmp_path, rate=4000, channels="mono")


OWN = """
from pathlib import Path

HERE = Path(__file__).parent

def loudness(channels="mono", rate=None):
    files = sorted(HERE.glob("tones/*/*.wav"))
    part = {"sound": files, "level": [float(file.stem) / 10 for file in files]}
    return {"train": part, "targets": ["level"], "rate": rate, "channels": channels}

def broken():
    return {"sound": [str(HERE / "tones/high/0.wav"), str(HERE / "missing.wav")], "level": [0.0, 1.0]}
"""


def test_files_of_a_function_are_sounds_with_any_target(folder, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "tones").symlink_to(folder)
    data = fetch(f"{tmp_path}/own.py:loudness", tmp_path / "cache", args={"rate": 2000})
    sound, level, *_ = data.field_refs
    assert (sound.kind, sound.sound.rate, sound.sound.mono, level.kind) == ("audio", 2000, True, "values")
    assert for_task(data, TaskConfig()).goal.reference == "regression"
    with pytest.raises(UserError, match=r"field 'sound': number 1, .*missing\.wav, can't be read"):
        fetch(f"{tmp_path}/own.py:broken", tmp_path / "cache")
    with pytest.raises(UserError, match="unknown channels 'both'"):
        fetch(f"{tmp_path}/own.py:loudness", tmp_path / "cache", args={"channels": "both"})


def test_channels_are_the_last_side(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(8):
            stereo = np.stack([tone(rng, 300, 0.05 + number / 1000, 4000)] * 2, 1)
            save(tmp_path / "all" / name / f"{number}.wav", stereo, rate=4000, channels=2)
    data = fetch(f"wav:{tmp_path}/all", tmp_path / "cache")
    assert data.field_refs[0].shape == (228, 2) and facts(data)["in_channels"] == 2
