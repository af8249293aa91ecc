import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from tests.components.export.conftest import METADATA
from tests.toy import toy_data
from torchmill.components.errors import UserError
from torchmill.components.export.pre_and_post import plain
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.session import open_session

REPOSITORY = Path(__file__).parents[3]


class Branching(nn.Module):
    """A network that branches on its input's values, which no graph can represent."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

    def forward(self, x):
        x = self.out(x.flatten(1))
        return x if x.sum() > 0 else -x


class Parametrized(nn.Module):
    def __init__(self, parametrization: Callable[[nn.Module], nn.Module]):
        super().__init__()
        self.conv = parametrization(nn.Conv2d(1, 4, 3, stride=4))
        self.out = parametrization(nn.Linear(196, 10))

    def forward(self, x):
        return self.out(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    "parametrization", [parametrizations.orthogonal, parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_parametrized_weights_are_exported_as_they_are_and_stay_parametrized(tmp_path, toy, toy_test, parametrization):
    network = Parametrized(parametrization)
    names = list(network.state_dict())
    to_onnx(network, toy, {}, tmp_path / "model.onnx")
    pixels = toy_test.inputs[:5]
    expected = StandardizedModel.of(network, toy).eval()(pixels).detach().numpy()
    logits = open_session(tmp_path / "model.onnx").run(["logits"], {"pixels": pixels.numpy()})[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert list(network.state_dict()) == names and parametrize.is_parametrized(network.conv, "weight")


def test_the_model_takes_raw_pixels_in_any_batch_and_gives_logits(exported, toy, toy_test):
    session = open_session(exported.path)
    (taken,), given = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("pixels", "tensor(uint8)", ["batch", "d1", "d2", "d3"])
    assert [(one.name, one.type, one.shape) for one in given] == [
        ("logits", "tensor(float)", ["batch", 10]),
        ("probabilities", "tensor(float)", ["batch", 10]),
        ("labels", "tensor(string)", ["batch"]),
        ("index", "tensor(int64)", ["batch"]),
    ]
    model = StandardizedModel.of(exported.network, toy).eval()
    for size in (1, 2, 5, 203):
        pixels = toy_test.inputs[:size]
        with torch.no_grad():
            expected = model(pixels).numpy()
        logits, probabilities, labels, index = session.run(None, {"pixels": pixels.numpy()})
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(probabilities, torch.softmax(torch.tensor(logits), 1), rtol=1e-4, atol=1e-6)
        assert list(labels) == [toy.classes[answer] for answer in logits.argmax(1)]
        assert np.array_equal(index, logits.argmax(1))


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_size_and_colours_are_prepared_as_pillow_does_it(tmp_path, channels, mode):
    data = toy_data(tmp_path, channels=channels, size=24, train=4, test=2)
    piece = data.field.preprocessing(data.shape, data.vocabulary_size)
    session = open_session(ir.to_proto(plain(piece, "prepare.", ["prepared"])).SerializeToString())
    rng, bands = np.random.default_rng(0), {"L": 1, "RGB": 3, "RGBA": 4}[mode]
    for height, width in ((24, 24), (57, 40), (40, 57), (90, 31), (17, 20), (24, 1)):
        pixels = rng.integers(0, 256, (height, width, bands), dtype=np.uint8)
        picture = Image.fromarray(pixels[:, :, 0] if bands == 1 else pixels)
        if mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (24, 24):
            picture = ImageOps.fit(picture, (24, 24), Image.Resampling.BILINEAR)
        wanted = np.asarray(picture).reshape(24, 24, channels).transpose(2, 0, 1)
        (last,) = session.run(None, {"pixels": pixels[None]})
        assert last.shape == (1, channels, 24, 24)
        difference = np.abs(last[0].astype(int) - wanted)
        assert difference.max() <= 1 and (difference > 0).mean() < (0.05 if picture.size != (24, 24) else 0.1)
        if (height, width) == (24, 24):
            assert not difference.any()
        if width > 4:
            (first,) = session.run(None, {"pixels": pixels.transpose(2, 0, 1)[None]})
            assert np.array_equal(first, last)


def test_a_temperature_softens_probabilities_and_changes_no_answer(exported, toy, toy_test, tmp_path):
    to_onnx(exported.network, toy, {}, tmp_path / "soft.onnx", temperature=2.5)
    pixels = toy_test.inputs[:9].numpy()
    logits, probabilities, labels, _ = open_session(tmp_path / "soft.onnx").run(None, {"pixels": pixels})
    np.testing.assert_allclose(probabilities, torch.softmax(torch.tensor(logits) / 2.5, 1), rtol=1e-4)
    assert list(labels) == list(open_session(exported.path).run(["labels"], {"pixels": pixels})[0])
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "soft.onnx").metadata_props}
    assert told["temperature"] == "2.5"


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
    assert told["input"].startswith("uint8 pixels 0-255, (batch, height, width, channels) or ")
    assert told["preprocessing"] == "scaled as Pillow's ImageOps.fit does with BILINEAR to 28x28"
    assert told["output"].startswith("logits and probabilities, float32 (batch, 10)")
    assert (told["kind"], told["task"], json.loads(told["shape"])) == ("images", "classification", [1, 28, 28])
    assert json.loads(told["input_statistics"]) == {"mean": list(toy.mean), "std": list(toy.std)}
    assert METADATA.items() <= told.items()


@pytest.mark.usefixtures("fresh_export")
def test_the_same_network_gives_the_same_bytes(exported, toy, tmp_path):
    to_onnx(exported.network, toy, METADATA, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.path.read_bytes()


@pytest.mark.usefixtures("fresh_export")
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
    assert session.run(None, {"pixels": np.zeros((3, 3, 8, 8), np.uint8)})[0].shape == (3, 2)


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from torchmill.components.export.to_onnx import to_onnx;"
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
