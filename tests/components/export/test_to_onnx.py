import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from components.errors import UserError
from components.export.parity import open_session
from components.export.to_onnx import to_onnx
from components.raw_model import RawModel
from tests.components.export.conftest import METADATA
from tests.toy import toy_data

REPOSITORY = Path(__file__).parents[3]


class Branching(nn.Module):
    """Goes another way by what it sees, which no graph can hold."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

    def forward(self, x):
        x = self.out(x.flatten(1))
        return x if x.sum() > 0 else -x


def test_the_model_takes_raw_pixels_in_any_batch_and_gives_logits(exported, toy, toy_test):
    session = open_session(exported.path)
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("pixels", "tensor(uint8)", ["batch", 1, 28, 28])
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["batch", 10])
    model = RawModel.of(exported.network, toy).eval()
    for size in (1, 2, 5, 203):
        pixels = toy_test.inputs[:size]
        with torch.no_grad():
            expected = model(pixels).numpy()
        (logits,) = session.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


def test_the_model_is_one_valid_file_of_opset_20(exported):
    proto = exported.proto()
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == 20
    assert {
        entry.domain for entry in proto.opset_import if any(n.domain == entry.domain for n in proto.graph.node)
    } == {""}
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]  # no weights beside it
    assert exported.path.stat().st_size > 4 * 421_642


def test_the_model_tells_nothing_of_where_it_was_made(exported):
    content = exported.path.read_bytes()
    for told in (str(REPOSITORY), str(Path(sys.prefix)), 'File "', "pkg.torch", "Traceback", ".py", os.sep + "tmp"):
        assert told.encode() not in content, told


def test_the_model_says_what_it_takes_and_what_its_answers_mean(exported, toy):
    told = {entry.key: entry.value for entry in exported.proto().metadata_props}
    assert json.loads(told["labels"]) == list(toy.classes)
    assert told["input"] == "uint8 pixels 0-255, NCHW (batch, 1, 28, 28)"
    assert told["output"].startswith("float32 logits (batch, 10)")
    assert METADATA.items() <= told.items()
    assert set(told) == {"labels", "input", "output", *METADATA}


def test_the_same_network_gives_the_same_bytes(exported, toy, tmp_path):
    to_onnx(exported.network, toy, METADATA, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()


def test_a_network_in_training_mode_and_channels_last_gives_the_same_bytes(trained, exported, toy, tmp_path):
    to_onnx(trained.train().to(memory_format=torch.channels_last), toy, METADATA, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()


def test_a_network_that_branches_on_what_it_sees_is_told_in_words_alone(toy, tmp_path, capfd):
    with pytest.raises(UserError, match=r"Branching cannot be exported to ONNX: .*data-dependent") as raised:
        to_onnx(Branching(), toy, {}, tmp_path / "model.onnx")
    assert "Branches on a tensor's values" in raised.value.remedy and len(str(raised.value)) < 700
    assert list(tmp_path.iterdir()) == []
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_a_network_of_a_fixed_batch_is_not_exported(toy, tmp_path):
    class Fixed(Branching):
        def forward(self, x):
            return self.out(x.reshape(2, 784))

    with pytest.raises(UserError, match="Fixed cannot be exported to ONNX"):
        to_onnx(Fixed(), toy, {}, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_colours_and_other_sizes_are_exported(tmp_path):
    data = toy_data(tmp_path, channels=3, size=8, classes=2, train=4, test=2)
    to_onnx(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), data, {}, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    assert session.get_inputs()[0].shape == ["batch", 3, 8, 8]
    assert session.run(None, {"pixels": np.zeros((3, 3, 8, 8), np.uint8)})[0].shape == (3, 2)


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from components.export.to_onnx import to_onnx;"
        "from tests.toy import toy_data; folder = Path(sys.argv[1]); torch.manual_seed(0);"
        "network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(),"
        "torch.nn.Linear(72, 10)); data = toy_data(folder, size=8, train=20, test=2);"
        "to_onnx(network, data, {'a': '1', 'b': '2'}, folder / 'model.onnx')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True, cwd=REPOSITORY, env=environment)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10))
    to_onnx(network, toy_data(tmp_path, size=8, train=20, test=2), {"a": "1", "b": "2"}, tmp_path / "here.onnx")
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
