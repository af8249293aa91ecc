"""Seconds from 10,000 JPEG files in class folders to a network trained on them for 5 epochs.

- ours: the steps fetch, of `image_folder:PATH` with an empty cache, and fit. It also decodes 400 more images for
  validation and test, and validates after each epoch.
- ImageFolder: torchvision's, with Resize, CenterCrop, ToTensor and Normalize, and a plain loop. Its DataLoader has a
  persistent worker per processor.

Both train the same small network of three convolutions on 64×64 pixels, in batches of 64, with Adam and one-cycle. The
images are synthetic: smooth blobs with noise, 120 to 200 pixels wide and high, about 6 kB each.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.measure import Claim, in_turn
from torchmill.components.data.fetch import fetch
from torchmill.components.data.samples import read_training
from torchmill.components.processes import processors
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup

SPLITS = {"train": 10_000, "val": 200, "test": 200}
CLASSES, SIZE, BATCH, EPOCHS, ROUNDS = 10, 64, 64, 5, 3


def measure() -> list[Claim]:
    torch.set_num_threads(processors())
    with tempfile.TemporaryDirectory() as place:
        pictures = Path(place) / "pictures"
        write_pictures(pictures)
        preparing: list[float] = []
        measures = {
            "ours": lambda: ours(pictures, preparing),
            "ImageFolder": lambda: torchvision_loop(pictures / "train"),
        }
        figures = in_turn(measures, ROUNDS)
    seconds = statistics.median(preparing[1:])
    note = f"Our time includes {seconds:.1f} s of preparation, which the next run finds in the cache."
    subject = f"image_folder and fit, {EPOCHS} epochs of {SPLITS['train']:,} JPEG files"
    return [Claim(subject, "ImageFolder, DataLoader", figures["ours"], figures["ImageFolder"], "s", "≤ 0.5", note)]


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        for label in range(CLASSES):
            (folder / split / f"class {label}").mkdir(parents=True)
        for number in range(count):
            width, height = rng.integers(120, 201, 2)
            blobs = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.int16)
            noisy = (smooth + rng.integers(-8, 9, smooth.shape, np.int16)).clip(0, 255).astype(np.uint8)
            place = folder / split / f"class {number % CLASSES}" / f"{number:05}.jpg"
            Image.fromarray(noisy).save(place, quality=85)


def network() -> nn.Module:
    def stage(channels: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(channels, outputs, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]

    stages = [*stage(3, 16), *stage(16, 32), *stage(32, 64)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, CLASSES))


def ours(pictures: Path, preparing: list[float]) -> float:
    with tempfile.TemporaryDirectory() as place:
        folder, started = Path(place), time.perf_counter()
        data = fetch(f"image_folder:{pictures}", folder / "cache", args={"image_size": SIZE})
        preparing.append(time.perf_counter() - started)
        config = TrainConfig(epochs=EPOCHS, batch_size=BATCH)
        training, validation = read_training(data.with_split(0.1, seed=0))
        checkpoints, best = Checkpoints(folder / "checkpoints", config.checkpoint_seconds), folder / "best.safetensors"
        cpu = torch.device("cpu")
        for _ in fit(TrainingSetup(network(), training, validation, data, config, cpu, 0), checkpoints, best):
            pass
        return time.perf_counter() - started


def torchvision_loop(folder: Path) -> float:
    from torchvision import datasets, transforms

    started = time.perf_counter()
    normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    steps = [transforms.Resize(SIZE), transforms.CenterCrop(SIZE), transforms.ToTensor(), normalize]
    dataset = datasets.ImageFolder(str(folder), transforms.Compose(steps))
    workers = {"num_workers": processors(), "persistent_workers": True}
    batches = DataLoader(dataset, batch_size=BATCH, shuffle=True, **workers)
    model = network().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for images, labels in batches:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return time.perf_counter() - started
