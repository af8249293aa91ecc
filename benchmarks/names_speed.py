"""Names/s of training `rnn` on the real names, against the loop of PyTorch's tutorial on the same names.

- ours: `fit` with `rnn` at its defaults, a bidirectional LSTM of 256 units, and `--train.batch_size auto`.
- ours, small: `rnn` with one layer of 128 plain units in one direction, the tutorial's size.
- the tutorial ("NLP From Scratch: Classifying Names"): a hand-written recurrent cell of 128 units. It takes one name at
  a time, letter by letter as one-hot vectors, and updates by SGD after each name.

Needs the names, from the cache or from the mirror in TORCHMILL_MIRROR.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import Claim, in_turn
from torchmill.components.data.fetch import fetch
from torchmill.components.data.samples import Samples, read_training
from torchmill.components.errors import UserError
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.processes import processors
from torchmill.components.refs import DataRef
from torchmill.components.runs.folders import data_cache
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup
from torchmill.components.training.tuning.autotune import Autotune

NAMES, TUTORIAL_NAMES, ROUNDS = 12_800, 300, 5
SMALL = {"hidden": 128, "layers": 1, "embedding": 64, "bidirectional": False, "cell": "rnn"}


def measure() -> list[Claim]:
    try:
        data = fetch("names", data_cache())
    except UserError as error:
        print(f"The names are not available: {error}")
        return []
    torch.set_num_threads(processors())
    training, validation = read_training(data.with_split(0.1, seed=0))
    chosen = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    some, few = training.part(chosen[:NAMES]), validation.part(torch.arange(64))
    figures = in_turn(
        {
            "rnn": lambda: ours(data, some, few, {}),
            "rnn, small": lambda: ours(data, some, few, SMALL),
            "the tutorial's loop": lambda: tutorial(data, training.part(chosen[:TUTORIAL_NAMES])),
        },
        ROUNDS,
    )
    theirs = figures["the tutorial's loop"]
    return [
        Claim(
            *("fit of rnn on names", "the tutorial's loop, smaller", figures["rnn"], theirs, "names/s", "–"),
            "`rnn` at its defaults, a bidirectional LSTM of 256 units, is far larger than the tutorial's network; the "
            "small one has the same size.",
        ),
        Claim(
            "fit of rnn on names", "the tutorial's loop, of one size", figures["rnn, small"], theirs, "names/s", "≥ 20"
        ),
    ]


def ours(data: DataRef, training: Samples, validation: Samples, arguments: dict[str, object]) -> float:
    network, _ = initialize(ModelConfig(name="rnn", args=arguments), InitializeConfig(), data, 0)
    with tempfile.TemporaryDirectory() as place:
        auto, cpu = TrainConfig(batch_size=None), torch.device("cpu")
        setup = TrainingSetup(network, training, validation, data, auto, cpu, seed=0)
        batch_size = Autotune(Path(place), setup).batch_size(auto, cpu)
        checkpoints, best = Checkpoints(Path(place) / "checkpoints", 30), Path(place) / "best.safetensors"
        config = TrainConfig(epochs=1, batch_size=batch_size)
        epochs = fit(dataclasses.replace(setup, config=config), checkpoints, best)
        return next(epochs).samples_per_second


class Cell(nn.Module):
    """The tutorial's recurrent network."""

    def __init__(self, letters: int, hidden: int, classes: int):
        super().__init__()
        self.hidden = hidden
        self.i2h, self.h2h, self.h2o = nn.Linear(letters, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, letter, hidden):
        hidden = torch.tanh(self.i2h(letter) + self.h2h(hidden))
        return self.softmax(self.h2o(hidden)), hidden


def tutorial(data: DataRef, training: Samples) -> float:
    letters = data.vocabulary_size
    names = [
        (nn.functional.one_hot(row[:length].long(), letters).float()[:, None], label[None])
        for row, length, label in zip(training.inputs, training.lengths, training.labels, strict=True)
    ]
    cell, criterion = Cell(letters, 128, len(data.classes)), nn.NLLLoss()
    started = time.perf_counter()
    for line, label in names:
        hidden = torch.zeros(1, 128)
        cell.zero_grad()
        for letter in line:
            output, hidden = cell(letter, hidden)
        loss = criterion(output, label)
        loss.backward()
        for weight in cell.parameters():
            weight.data.add_(weight.grad.data, alpha=-0.005)
    return len(names) / (time.perf_counter() - started)
