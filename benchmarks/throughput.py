"""Images/s of training alone: SimpleCNN, MNIST-shaped pixels, batches of 64, all in one process and in turn.

- ours: an epoch of `fit`, by its own figure.
- bare loop: the same mathematics over tensors in memory (channels-last, fused Adam, one-cycle), and nothing else.
- DataLoader: torchvision's MNIST with ToTensor and Normalize through a DataLoader, as pytorch/examples does.
- Lightning: a LightningModule over that DataLoader, as its documentation does.
- Accelerate: that loop with network, optimizer, DataLoader and schedule prepared by it, as its documentation does.
- skorch: `NeuralNetClassifier.fit` on float arrays as in its MNIST tutorial, but without a validation split.
- Keras: `fit` on float arrays on its torch backend, with the same layers and Keras's initialization.

For Lightning, skorch and Keras, their callbacks time the epoch alone, without their set-up.
"""

import contextlib
import io
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from benchmarks.measure import Claim, in_turn
from torchmill.components.data.samples import Samples
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.processes import processors
from torchmill.components.refs import DataRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup

IMAGES, BATCH, ROUNDS = 12_800, 64, 9
MEAN, STD = 0.1307, 0.3081

DATA = DataRef(
    name="noise",
    folder=".",
    sha256="",
    source="",
    classes=tuple("0123456789"),
    shape=(1, 28, 28),
    train_size=IMAGES,
    test_size=0,
    mean=(MEAN,),
    std=(STD,),
)


def measure() -> list[Claim]:
    torch.set_num_threads(processors())
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60_000, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, 10, 60_000, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_mnist(Path(folder), pixels, labels)
        training = Samples(torch.from_numpy(pixels[:IMAGES, None].copy()), torch.from_numpy(labels[:IMAGES]).long())
        measures = {
            "ours": lambda: ours(training, Path(folder)),
            "bare loop": lambda: bare_loop(training),
            "DataLoader": lambda: dataloader_loop(Path(folder)),
        }
        if importable("lightning"):
            measures["Lightning"] = lambda: lightning_loop(Path(folder))
        # Read on import: these keep Accelerate from asking its hub, and Keras from writing into the home folder.
        os.environ |= {"HF_HUB_OFFLINE": "1", "KERAS_BACKEND": "torch", "KERAS_HOME": folder}
        if importable("accelerate"):
            measures["Accelerate"] = lambda: accelerate_loop(Path(folder))
        floats = (pixels[:IMAGES, None] / np.float32(255) - MEAN) / STD
        if importable("skorch"):
            measures["skorch"] = lambda: skorch_fit(floats, labels[:IMAGES].astype(np.int64))
        if importable("keras"):
            measures["Keras"] = lambda: keras_fit(floats, labels[:IMAGES])
        figures = in_turn(measures, ROUNDS)
    reach = {"bare loop": "≥ 0.98", "DataLoader": "≥ 2.0", "Lightning": "≥ 2.0"}
    return [
        Claim("fit", name, figures["ours"], figures[name], "images/s", reach.get(name, "≥ 1.5"), NOTE * (at == 0))
        for at, name in enumerate(name for name in figures if name != "ours")
    ]


NOTE = (
    "The bare loop reads no loss for NaN, writes no checkpoints and reports no progress. The spread is too large to "
    "say which of these costs the missing 3 %. Reading losses less often would close the gap, but find a NaN later."
)


def network() -> torch.nn.Module:
    return initialize(ModelConfig(), InitializeConfig(), DATA, 0)[0]


def ours(training: Samples, folder: Path) -> float:
    config = TrainConfig(epochs=1, batch_size=BATCH)
    few = Samples(training.inputs[:256], training.labels[:256])
    checkpoints, best = Checkpoints(folder / "checkpoints", config.checkpoint_seconds), folder / "best.safetensors"
    (epoch,) = fit(TrainingSetup(network(), training, few, DATA, config, torch.device("cpu"), 0), checkpoints, best)
    return epoch.samples_per_second


def bare_loop(training: Samples) -> float:
    model = network()
    started = time.perf_counter()
    for _ in bare_epochs(model, training, epochs=1):
        pass
    return IMAGES / (time.perf_counter() - started)


def bare_epochs(model: torch.nn.Module, training: Samples, epochs: int) -> Iterator[torch.nn.Module]:
    """Train with the same mathematics as ours and nothing else; yield the network after each epoch."""
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-3, total_steps=epochs * -(-len(training) // BATCH)
    )
    for _ in range(epochs):
        for batch in torch.randperm(len(training)).split(BATCH):
            loss = cross_entropy(model(images(training.inputs[batch])), training.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        yield model


def images(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels.to(torch.float32, memory_format=torch.channels_last) - 255 * MEAN) * (1 / (255 * STD))


def loader(folder: Path) -> DataLoader:
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    dataset = Subset(datasets.MNIST(str(folder), train=True, transform=transform), range(IMAGES))
    return DataLoader(dataset, batch_size=BATCH, shuffle=True)


def dataloader_loop(folder: Path) -> float:
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = loader(folder)
    started = time.perf_counter()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
    return IMAGES / (time.perf_counter() - started)


def lightning_loop(folder: Path) -> float:
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network()

        def training_step(self, batch, _):
            images, labels = batch
            return cross_entropy(self.model(images), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-3)

        def on_train_epoch_start(self):
            self.started = time.perf_counter()

        def on_train_epoch_end(self):
            self.seconds = time.perf_counter() - self.started

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        classifier = Classifier()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=str(folder), **quiet)
        trainer.fit(classifier, loader(folder))
    return IMAGES / classifier.seconds


def accelerate_loop(folder: Path) -> float:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, batches = network().train(), loader(folder)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(batches))
    model, optimizer, batches, schedule = accelerator.prepare(model, optimizer, batches, schedule)
    started = time.perf_counter()
    for images, labels in batches:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
    return IMAGES / (time.perf_counter() - started)


def skorch_fit(images: np.ndarray, labels: np.ndarray) -> float:
    from skorch import NeuralNetClassifier

    classifier = NeuralNetClassifier(
        network(),
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=1,
        batch_size=BATCH,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )
    classifier.fit(images, labels)
    return IMAGES / classifier.history[-1, "dur"]


def keras_fit(images: np.ndarray, labels: np.ndarray) -> float:
    import keras
    from keras import layers

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds = time.perf_counter() - self.started

    # On its torch backend, Keras is faster with channels first than with its default, channels last.
    first = {"data_format": "channels_first"}
    model = keras.Sequential(
        [
            keras.Input((1, 28, 28)),
            *(layers.Conv2D(32, 3, padding="same", **first), layers.MaxPooling2D(2, **first), layers.ReLU()),
            *(layers.Conv2D(64, 3, padding="same", **first), layers.MaxPooling2D(2, **first), layers.ReLU()),
            *(layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    clock = Clock()
    model.fit(images, labels, batch_size=BATCH, epochs=1, shuffle=True, verbose=0, callbacks=[clock])
    return IMAGES / clock.seconds


def write_mnist(folder: Path, pixels: np.ndarray, labels: np.ndarray) -> None:
    """Write noise as the unpacked MNIST files that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        header = np.array([2051, len(pixels), 28, 28], ">u4").tobytes()
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(
            np.array([2049, len(labels)], ">u4").tobytes() + labels.tobytes()
        )


def importable(name: str) -> bool:
    """Return True if a library can be imported; the libraries to compare with are in .venv-bench."""
    libraries = str(Path(__file__).parent.parent / ".venv-bench")
    if libraries not in sys.path:
        sys.path.append(libraries)
    try:
        __import__(name)
    except ImportError:
        print(f"{name} is not installed (make bench installs it): skipped", flush=True)
        return False
    return True
