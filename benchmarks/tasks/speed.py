"""Noise of the shapes of real tasks, to measure the speed of their training."""

import numpy as np
from torch import nn

rng = np.random.default_rng(0)


def pictures(samples: int = 320):
    split = {
        "image": rng.integers(0, 256, (samples, 96, 96), dtype=np.uint8),
        "mask": rng.integers(0, 11, (samples, 96, 96)),
    }
    return {"train": split, **ends(split)}


def windows(samples: int = 1280):
    split = {"tokens": rng.integers(1, 60, (samples, 64))}
    return {"train": split, **ends(split)}


def pairs(samples: int = 6400):
    images = rng.integers(0, 256, (2, samples, 28, 28), dtype=np.uint8)
    split = {"left": images[0], "right": images[1], "same": rng.integers(0, 2, samples)}
    return {"train": split, "targets": ["same"], **ends(split)}


def ends(split):
    """Return small splits to validate and test with: the speed is that of training."""
    return {name: {key: values[:32] for key, values in split.items()} for name in ("validation", "test")}


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 49, 64),
        )

    def forward(self, left, right):
        return self.body(left), self.body(right)


class Contrastive:
    main_measure = "accuracy"

    def loss(self, network, batch):
        left, right = network(batch)
        apart, same = (left - right).square().sum(1), batch["same"].float()
        far = (1 - apart.clamp(min=1e-9).sqrt()).clamp(min=0).square()
        return (same * apart + (1 - same) * far).mean()

    def predict(self, network, inputs):
        left, right = network(inputs)
        return {"distance": (left - right).square().sum(1).sqrt()}

    def measure(self, answer, batch):
        return {"accuracy": (answer["distance"] < 0.5) == (batch["same"] == 1)}
