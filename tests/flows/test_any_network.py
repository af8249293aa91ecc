"""Networks, data and losses of the user's own, in whole runs."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.flows.conftest import Place

pytestmark = pytest.mark.services

FILE = """
import numpy as np
from torch import nn
from parts import block

class Own(nn.Module):
    def __init__(self, in_features, num_classes, width=16):
        super().__init__()
        self.body, self.head = block(in_features, width), nn.Linear(width, num_classes)

    def forward(self, features):
        return self.head(self.body(features))

def houses(count=300):
    rng = np.random.default_rng(0)
    size, age = rng.uniform(40, 200, count), rng.uniform(0, 90, count)
    price = 3000 * size - 500 * age + rng.normal(0, 1000, count)
    return np.stack([size, age], 1).astype("float32"), price.astype("float32")

class Absolute(nn.Module):
    def forward(self, values, targets):
        return (values - targets).abs().mean()
"""
PARTS = """
from torch import nn

def block(features, width):
    return nn.Sequential(nn.Linear(features, width), nn.ReLU())
"""


def result(done) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_network_data_and_a_loss_in_a_file_outside_train_export_and_are_found_again(shared: Place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    file = tmp_path / "elsewhere" / "own_houses.py"
    file.write_text(FILE)
    file.with_name("parts.py").write_text(PARTS)
    command = (
        *("train", "--json", "--model", f"{file}:Own", "--data", f"{file}:houses", "--data.args", '{"count": 400}'),
        *("--train.loss", f"{file}:Absolute", "--train.epochs", "40", "--train.lr", "0.01"),
    )
    first = result(shared.torchmill(*command))
    assert first["metrics"]["test_r2"] > 0.9 and first["onnx"]["agreement"] == 1
    again = result(shared.torchmill(*command))
    assert again["run_id"] == first["run_id"] and {step["state"] for step in again["steps"].values()} == {"cached"}


def pictures(place: Place, leaked: int = 0) -> None:
    """Make a folder of images of bars, lying and standing; some test images are training images, saved anew."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 20)):
        for label in ("lying", "standing"):
            folder = place.folder / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (24, 24), np.uint8)
                at = int(rng.integers(4, 20))
                pixels[(slice(at, at + 3), slice(None)) if label == "lying" else (slice(None), slice(at, at + 3))] += (
                    150
                )
                Image.fromarray(pixels).save(folder / f"{number}.png")
    for number in range(leaked):
        train = place.folder / "pictures" / "train" / "lying" / f"{number}.png"
        shutil.copy(train, place.folder / "pictures" / "test" / "lying" / f"{number}.png")


@pytest.mark.slow
def test_a_leak_stops_the_run_unless_it_is_allowed_and_then_it_is_recorded(shared: Place):
    pictures(shared, leaked=5)
    command = ("train", "--data", "image_folder:pictures", "--train.epochs", "12")
    refused = shared.torchmill(*command)
    assert refused.returncode == 1 and "12.50 % of the test samples" in refused.stderr, refused.stderr
    assert "--data.allow_leakage" in refused.stderr and "Traceback" not in refused.stderr
    allowed = shared.torchmill(*command, "--data.allow_leakage", "--json")
    assert result(allowed)["data"]["classes"] == ["lying", "standing"]
    assert "It is allowed by --data.allow_leakage" in allowed.stderr
    tags = shared.mlflow("SELECT value FROM tags WHERE key = 'data.leakage_allowed'")
    assert tags == [("12.5000%",)]
    assert shared.states()[-2:] == ["FAILED", "FINISHED"]


UNSOUND = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = [nn.Linear(784, 32)]
        self.out = nn.Linear(32, num_classes)

    def forward(self, x):
        return self.out(self.layers[0](x.flatten(1)).relu()).softmax(1)
"""


def test_an_unsound_network_is_stopped_before_it_is_trained(shared: Place):
    (shared.folder / "net.py").write_text(UNSOUND)
    command = ("train", "--model", "net.py:Net", "--train.epochs", "1")
    refused = shared.torchmill(*command)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "registered in layers[0]" in refused.stderr and "softmax comes before cross_entropy" in refused.stderr
    checked = shared.torchmill("check", "--model", "net.py:Net", "--check.level", "quick", "--json")
    told = json.loads(checked.stdout)
    assert checked.returncode == 1 and told["worst"] == "fail" and told["weights"] == "as the constructor made them"
    shown = shared.torchmill("check", "--model", "net.py:Net", "--check.level", "quick").stdout.splitlines()
    assert shown[0].startswith("network net.py:Net; data") and shown[1].startswith("pass  ")
    assert any(line.startswith("fail  registered in layers[0]") for line in shown[-8:])
    (shared.folder / "wrong.py").write_text(UNSOUND.replace("num_classes)\n\n", "3)\n\n"))
    rejected = shared.torchmill("check", "--model", "wrong.py:Net", "--json")
    told = json.loads(rejected.stdout)
    assert rejected.returncode == 1 and told["status"] == "FAILED" and "gives shape (2, 3)" in told["error"]


@pytest.mark.slow
def test_texts_train_with_a_vocabulary_that_the_model_brings_along(shared: Place):
    for split, count in (("train", 60), ("test", 20)):
        for label, letters in (("vowels", "aeiou"), ("consonants", "bcdfg")):
            folder = shared.folder / "texts" / split / label
            folder.mkdir(parents=True)
            rng = np.random.default_rng(len(split + label))
            for number in range(count):
                text = "".join(rng.choice(list(letters + "xyz"), int(rng.integers(3, 12))))
                (folder / f"{number}.txt").write_text(text)
    command = ("--data", "text_folder:texts", "--data.args", '{"level": "characters"}', "--model", "transformer")
    small = ("--model.args", '{"width": 32, "heads": 2, "layers": 1}', "--train.epochs", "8", "--train.lr", "0.005")
    done = result(shared.torchmill("train", "--json", *command, *small, "--data.allow_leakage", "--check.level", "off"))
    assert "check" not in done["steps"]
    assert done["metrics"]["test_accuracy"] > 0.8 and done["onnx"]["agreement"] == 1
    read = shared.python(
        "import json, onnx, sys\n"
        f"held = {{one.key: one.value for one in onnx.load({done['onnx']['path']!r}).metadata_props}}\n"
        "print(held['labels'], json.loads(held['vocabulary'])['tokens'][:2])"
    )
    assert read.stdout.split("\n")[0] == "[\"consonants\", \"vowels\"] ['<padding>', '<unknown>']", read.stderr
