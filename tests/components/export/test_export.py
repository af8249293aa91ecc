import copy
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests.components.export.test_to_onnx import Branching
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import EXAMPLES, ParityError, export
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import ExportRef, FileRef

CONFIG = ExportConfig(batch_sizes=(1, 2, 7, 256))
EXAMPLE = ("pixels", "logits", "probabilities", "labels")
LEFT_OF_AN_EARLIER_ONE = ("model.onnx", "parity.json", "example.npz")


def with_files_of_an_earlier_export(folder: Path) -> Path:
    for name in LEFT_OF_AN_EARLIER_ONE:
        (folder / name).write_text("of an earlier one")
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of an earlier export."""
    return with_files_of_an_earlier_export(tmp_path)


@pytest.fixture(scope="module")
def sound(_trained, toy, toy_test, tmp_path_factory) -> ExportRef:
    """The export of the trained network, into the folder of an earlier one; to look at, not to change."""
    folder = with_files_of_an_earlier_export(tmp_path_factory.mktemp("sound"))
    return export(copy.deepcopy(_trained), toy, toy_test, CONFIG, {"network": "simple_cnn"}, folder)


class HalfAsTorch(nn.Module):
    """A network that computes something else while it is exported."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

    def forward(self, x):
        logits = self.out(x.flatten(1))
        return logits * 1.01 if torch.compiler.is_exporting() else logits


def test_a_sound_model_is_written_with_its_comparison_and_an_example(sound):
    ref, folder = sound, sound.onnx.path.parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.pbtxt",
        "example.npz",
        "model.bare.onnx",
        "model.onnx",
        "parity.json",
    ]
    for file, name in ((ref.onnx, "model.onnx"), (ref.report, "parity.json"), (ref.example, "example.npz")):
        assert file == FileRef.of(folder / name)
    onnx.checker.check_model(folder / "model.onnx", full_check=True)
    told = json.loads((folder / "parity.json").read_text())
    assert told["passed"] is True and told["complaints"] == [] and told["samples"] == 203
    assert (told["max_abs_diff"], told["agreement"]) == (ref.max_abs_diff, ref.agreement)
    assert [one["batch_size"] for one in told["by_batch_size"]] == [1, 2, 7, 256]


def test_the_example_is_what_the_model_gives(sound, toy):
    with np.load(sound.example.path) as example:
        pixels, logits, probabilities, labels = (example[name] for name in EXAMPLE)
    assert pixels.shape == (EXAMPLES, 1, 28, 28) and pixels.dtype == np.uint8
    again = open_session(sound.onnx.path).run(None, {"pixels": pixels})
    assert np.array_equal(again[0], logits) and np.array_equal(again[1], probabilities)
    assert list(again[2]) == list(labels) == [toy.classes[answer] for answer in logits.argmax(1)]


def test_a_model_that_differs_is_not_published_and_what_differs_is_kept(toy, toy_test, folder):
    with pytest.raises(
        ParityError, match=r"differs from the network: batch size 1: output \d of test sample"
    ) as raised:
        export(HalfAsTorch(), toy, toy_test, CONFIG, {}, folder)
    assert raised.value.exit_code == 1 and "Nothing is published" in str(raised.value)
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.bare.rejected.onnx",
        "model.rejected.onnx",
        "parity.json",
    ]
    told = json.loads((folder / "parity.json").read_text())
    assert told["passed"] is False
    assert [complaint.partition(":")[0] for complaint in told["complaints"]] == [
        "batch size 1", "batch size 2", "batch size 7", "batch size 256"
    ]  # fmt: skip


def test_a_tolerance_that_is_asked_for_is_used(toy, toy_test, tmp_path):
    network = HalfAsTorch()
    export(network, toy, toy_test, ExportConfig(tolerance=0.02, batch_sizes=(256,)), {}, tmp_path)
    assert json.loads((tmp_path / "parity.json").read_text())["passed"] is True


def test_a_network_that_cannot_be_exported_leaves_nothing_of_an_earlier_model(toy, toy_test, folder):
    with pytest.raises(UserError, match="Branching cannot be exported"):
        export(Branching(), toy, toy_test, CONFIG, {}, folder)
    assert list(folder.iterdir()) == []


def test_a_network_that_cannot_be_judged_is_not_published(toy, toy_test, folder):
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(784, 10)

        def forward(self, x):
            return self.out(x.flatten(1)) + torch.ones(1, dtype=torch.float32) @ torch.ones(1, 10, dtype=x.dtype)

    with pytest.raises(UserError, match="Stubborn cannot be run in float64"):
        export(Stubborn(), toy, toy_test, CONFIG, {}, folder)
    assert not any((folder / name).exists() for name in LEFT_OF_AN_EARLIER_ONE)
