"""A small data set whose classes are plain to see: class k has the k-th of as many horizontal bars, on noise."""

from pathlib import Path

import numpy as np

from components.data.fetch import channel_statistics
from components.refs import DataRef


def toy_data(
    folder: Path, *, classes: int = 10, channels: int = 1, size: int = 28, train: int = 600, test: int = 203
) -> DataRef:
    """Write the four files of a prepared data set into ``folder`` and describe them."""
    rng = np.random.default_rng(0)
    sizes = {"train": train, "test": test}
    images = {}
    for split, samples in sizes.items():
        labels = rng.permutation(np.arange(samples) % classes)
        images[split] = draw(labels, classes, channels, size, rng)
        np.save(folder / f"{split}_images.npy", images[split])
        np.save(folder / f"{split}_labels.npy", labels)
    mean, std = channel_statistics(images["train"])
    return DataRef(
        name="toy",
        folder=folder,
        sha256="0" * 64,
        source="drawn by a test",
        classes=tuple(f"bar {label}" for label in range(classes)),
        channels=channels,
        height=size,
        width=size,
        train_size=train,
        test_size=test,
        mean=mean,
        std=std,
    )


def draw(labels: np.ndarray, classes: int, channels: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Give uint8 images (N, channels, size, size)."""
    images_NCHW = rng.integers(0, 80, (len(labels), channels, size, size))
    edges = np.linspace(0, size, classes + 1).astype(int)
    for image_CHW, label in zip(images_NCHW, labels, strict=True):
        image_CHW[:, edges[label] : edges[label + 1]] += 120
    return images_NCHW.astype(np.uint8)
