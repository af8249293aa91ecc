"""A new file in a room is an option: it is listed, its values are checked, and it is used."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from torchmill.components.config import fields
from torchmill.components.data.config import AUGMENTATIONS, DATASETS
from torchmill.components.errors import ConfigError
from torchmill.components.initialization.config import MODELS, SCHEMES
from torchmill.components.settings import options
from torchmill.components.settings.options import Room
from torchmill.components.training.config import LOSSES, OPTIMIZERS, SCHEDULES

REPOSITORY = Path(__file__).parents[3]

NEW = {
    "training/optimizers": '''"""The sign of the gradient alone."""

from torch.optim import SGD


class Sign(SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad.sign_().mul_(group["factor"])
        super().step()


def make(common, *, factor: float = 1.0):
    return Sign([{**group, "factor": factor} for group in common.groups], common.lr)
''',
    "training/schedules": '''"""The square of what is left."""

from torchmill.components.training.schedules import by_share

RANGES = {"power": (1, 8)}


def make(optimizer, steps, warmup, *, power: int = 2):
    return by_share(optimizer, steps, warmup, lambda done, steps: (1 - done / steps) ** power)
''',
    "training/losses": '''"""Absolute error."""

from torch.nn import functional as F

TASKS = ("regression",)
RANGES = {"scale": (0, 10)}


def make(task, *, scale: float = 1.0):
    return lambda outputs, targets: scale * F.l1_loss(outputs, targets)
''',
    "initialization/schemes": '''"""All weights the same."""


def fill(weight, rng):
    weight.data.fill_(0.25)
''',
    "data/augmentation": '''"""Images of the opposite brightness."""

MEANING = "share of the brightness"
RANGES = {"strength": (0, 1)}


def change(pixels, rng, *, strength: float = 1.0):
    return (pixels * (1 - strength) + (255 - pixels) * strength).to(pixels.dtype)
''',
    "models": '''"""One layer."""

from torch import nn


class Novel(nn.Linear):
    def __init__(self, num_classes: int, in_features: int, scale: float = 1.0):
        super().__init__(in_features, num_classes)
''',
    "data/datasets": '''"""Novel: numbers that are their own class."""


def load(count: int = 40):
    raise NotImplementedError
''',
}

USE = """
import json

import torch
from torch import nn

from torchmill.components.config import fields, load
from torchmill.components.data.augmentation import Augmentation
from torchmill.components.data.samples import Samples
from torchmill.components.errors import ConfigError, UserError
from torchmill.components.initialization.schemes import fill
from torchmill.components.refs import DataRef
from torchmill.components.runs.fingerprint import of_run
from torchmill.components.training.losses import make_loss
from torchmill.components.training.optimizers import make_optimizer
from torchmill.components.training.schedules import make_schedule
from torchmill.flows.cli import catalog


def complaint(**values):
    try:
        load(None, {name.replace("__", "."): value for name, value in values.items()})
    except ConfigError as error:
        return str(error)


config = load(None, {
    "train.optimizer": "novel", "train.optimizer_args": '{"factor": 2}', "train.schedule": "novel",
    "train.schedule_args": '{"power": 3}', "train.loss": "novel", "train.loss_args": '{"scale": 4}',
    "train.augment": "novel:0.5,novel", "initialize": "novel", "model": "novel", "data": "novel",
})
network = nn.Linear(2, 1)
fill(network, config.initialize, 0, torch.zeros(1, 2))
told = {"weights": network.weight.flatten().tolist()}
optimizer = make_optimizer(network, config.train, torch.device("cpu"))
schedule = make_schedule(optimizer, config.train, 4)
network(torch.ones(1, 2)).sum().backward()
optimizer.step()
schedule.step()
told["step"] = [round((0.25 - weight) / config.train.lr, 3) for weight in network.weight.flatten().tolist()]
told["rate"] = optimizer.param_groups[0]["lr"] / config.train.lr
data = DataRef(
    name="toy", folder="/", sha256="", source="", kind="images", task="regression", shape=(1, 1, 1), classes=("a",),
    train_size=1, test_size=1, mean=(0.5,), std=(0.5,),
)
told["loss"] = make_loss(config.train, data, Samples(torch.zeros(1, 1), torch.zeros(1, 1)))(
    torch.ones(1, 1), torch.zeros(1, 1)
).item()
images = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
changed, _ = Augmentation(data, 0, config.train.augment)((images, torch.zeros(1, 1)), 1, 0, torch.zeros(1))
told["pixel"] = changed.item()
try:
    make_loss(load(None, {"train.loss": "novel", "train.loss_args": '{"scale": 11}'}).train, data, None)
except UserError as error:
    told["loss_args"] = str(error)
told["complaints"] = [
    complaint(train__optimizer="novl"), complaint(train__optimizer="novel", train__optimizer_args='{"facter": 1}'),
    complaint(train__schedule="novel", train__schedule_args='{"power": 2.5}'), complaint(train__augment="novel:2"),
    complaint(train__loss="novl"), complaint(initialize__rules='{"fc": "novl"}'), complaint(model="novl"),
    complaint(data="novl"),
]
told["fields"] = {name: [str(annotation), text] for name, (annotation, text, _) in fields().items()}
told["listed"] = [str(catalog.network("novel")), str(catalog.data_set("novel"))]
told["code"] = sorted(of_run(config, "").code)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict:
    """Results of a copy of Torchmill with a new file in each room."""
    copy = tmp_path_factory.mktemp("copy")
    shutil.copytree(REPOSITORY / "src" / "torchmill", copy / "torchmill", ignore=shutil.ignore_patterns("__pycache__"))
    for room, text in NEW.items():
        (copy / "torchmill" / "components" / room / "novel.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", USE],
        capture_output=True,
        text=True,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.services
def test_a_new_file_is_listed(told):
    for field in ("train.optimizer", "train.schedule", "initialize.name"):
        assert "'novel'" in told["fields"][field][0]
    for field in ("train.loss", "train.augment", "initialize.rules", "train.optimizer_args", "train.schedule_args"):
        assert "novel" in told["fields"][field][1], field
    assert "novel power=2" in told["fields"]["train.schedule_args"][1]
    assert "One layer." in told["listed"][0] and "scale=1.0" in told["listed"][0] and "numbers" in told["listed"][0]
    assert "count=40" in told["listed"][1]


@pytest.mark.services
def test_the_values_of_a_new_file_are_checked(told):
    for message, words in zip(
        told["complaints"],
        [
            "train.optimizer: unknown 'novl'. Did you mean novel",
            "train.optimizer_args: novel takes no argument 'facter'. Did you mean factor",
            "train.schedule_args: power is 2.5, not a whole number from 1 to 8",
            "'novel:2': the strength of novel is a number from 0 to 1 (share of the brightness), as in novel:1",
            "train.loss: unknown 'novl'. Did you mean novel",
            "'fc': unknown scheme 'novl'. Did you mean novel",
            "unknown network 'novl'. Did you mean novel",
            "unknown data set 'novl'. Did you mean novel",
        ],
        strict=True,
    ):
        assert words in message
    assert told["loss_args"] == "--train.loss_args: scale is 11, not a number from 0 to 10."


@pytest.mark.services
def test_a_new_file_is_used(told):
    assert told["weights"] == [0.25, 0.25]
    assert told["step"] == [2, 2]
    assert told["rate"] == pytest.approx(0.75**3)
    assert told["loss"] == 4
    assert told["pixel"] == 128


@pytest.mark.services
def test_the_fingerprint_has_the_options_of_a_run_and_no_others(told):
    names = {name for name in told["code"] if name.endswith("/novel.py")}
    assert names == {f"components/{room}/novel.py" for room in NEW}
    assert not [name for name in told["code"] if name.endswith(("/sgd.py", "/cosine.py", "/focal.py", "/shift.py"))]


@pytest.mark.parametrize("room", [OPTIMIZERS, SCHEDULES, LOSSES, SCHEMES, AUGMENTATIONS, MODELS, DATASETS])
def test_every_file_of_a_room_says_what_it_is_and_sets_ranges_of_arguments_that_it_has(room):
    assert room.names()
    for name in room.names():
        option = room[name]
        assert option.source.summary.endswith((".", ":")) or ":" in option.source.summary, option.file
        functions = ("make", "change", "change_samples")
        usual = {key: value for function in functions for key, value in option.usual(function).items()}
        for argument, (low, high) in option.constant("RANGES", {}).items():
            assert low <= usual[argument] <= high, (option.file, argument)


def test_a_room_elsewhere_is_read_anew_when_a_file_changes(tmp_path):
    room = Room(tmp_path)
    (tmp_path / "_shared.py").write_text("x = 1\n")
    (tmp_path / "first.py").write_text(
        "VALUE = 1\n\ndef make(common, *, width: int = 3, depth=(1, 2)):\n    return width\n"
    )
    assert room.names() == ["first"] and "first" in room and "_shared" not in room and "second" not in room
    assert room["first"].usual() == {"width": 3, "depth": (1, 2)}
    assert room.load("first").make(None) == 3 and room["first"].constant("VALUE") == 1
    (tmp_path / "first.py").write_text("VALUE = 22\n\ndef make(common, *, width: int = 4):\n    return width\n")
    assert room.load("first").make(None) == 4 and room["first"].constant("VALUE") == 22
    with pytest.raises(ConfigError, match=r"Unknown 'frist'\. Did you mean first"):
        room.load("frist")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no')\n")
    with pytest.raises(RuntimeError):
        room.load("broken")
    assert not [name for name in sys.modules if name.endswith(f"{tmp_path.name}.broken")]


def test_help_lists_the_options_that_are_found():
    named = fields()
    assert str(named["train.optimizer"][0]) == f"typing.Literal{OPTIMIZERS.names()}"
    assert all(f"{name}:" in named["train.augment"][1] for name in AUGMENTATIONS.names())
    assert "step factor=0.1, parts=3" in named["train.schedule_args"][1]
    assert options.with_arguments(LOSSES)[0].startswith("bce weight=None, label_smoothing=0.0")
