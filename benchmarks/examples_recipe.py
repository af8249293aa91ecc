"""The MNIST recipe of pytorch/examples, rewritten: train until 99.0 % of the test set, at most 14 epochs."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from torchmill.components.runs.folders import data_cache

GOAL, EPOCHS = 0.99, 14


class Network(nn.Sequential):
    def __init__(self):
        super().__init__(
            *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
            *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
        )


def main(folder: str) -> None:
    torch.manual_seed(1)
    write_raw(Path(folder))
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    training = DataLoader(datasets.MNIST(folder, train=True, transform=transform), batch_size=64, shuffle=True)
    test = DataLoader(datasets.MNIST(folder, train=False, transform=transform), batch_size=1000)
    model = Network()
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    history: list[float] = []
    while len(history) < EPOCHS and max(history, default=0) < GOAL:
        model.train()
        for images, labels in training:
            optimizer.zero_grad()
            loss = cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in test)
        history.append(right / len(test.dataset))
        schedule.step()
    print(json.dumps(history))


def write_raw(folder: Path) -> None:
    """Write the cached MNIST as the unpacked files that torchvision reads."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        images = np.load(data_cache() / "mnist" / f"{split}_inputs.npy")
        labels = np.load(data_cache() / "mnist" / f"{split}_labels.npy").astype(np.uint8)
        header = np.array([2051, len(images), 28, 28], ">u4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(
            np.array([2049, len(labels)], ">u4").tobytes() + labels.tobytes()
        )


if __name__ == "__main__":
    main(sys.argv[1])
