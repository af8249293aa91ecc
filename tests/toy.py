"""Small data sets of every kind with obvious answers."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torchmill.components import fields
from torchmill.components.data.fetch import VOCABULARY
from torchmill.components.data.samples import Samples
from torchmill.components.encoding.vocabulary import SPECIAL, Vocabulary
from torchmill.components.evaluation.predictions import predict
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.refs import DataRef


def toy_data(
    folder: Path, *, classes: int = 10, channels: int = 1, size: int = 28, train: int = 612, test: int = 203
) -> DataRef:
    """Write images into a folder: class k shows the k-th of ``classes`` horizontal bars, on noise."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, samples in {"train": train, "test": test}.items():
        labels = rng.permutation(np.arange(samples) % classes)
        splits[split] = draw(labels, classes, channels, size, rng), labels
    mean, std = fields.field("images").statistics(splits["train"][0])
    return written(
        folder,
        splits,
        shape=(channels, size, size),
        classes=tuple(f"bar {label}" for label in range(classes)),
        mean=mean,
        std=std,
    )


def draw(labels: np.ndarray, classes: int, channels: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 images (N, channels, size, size)."""
    images_NCHW = rng.integers(0, 80, (len(labels), channels, size, size))
    edges = np.linspace(0, size, classes + 1).astype(int)
    for image_CHW, label in zip(images_NCHW, labels, strict=True):
        image_CHW[:, edges[label] : edges[label + 1]] += 120
    return images_NCHW.astype(np.uint8)


def toy_tokens(
    folder: Path, *, classes: int = 3, longest: int = 12, train: int = 300, validation: int = 60, test: int = 83
) -> DataRef:
    """Write sequences of letters into a folder, of one letter up to ``longest``: class k has mostly the k-th letter.

    Sequences are padded. There is a validation split, and some letters belong to no class.
    """
    rng = np.random.default_rng(0)
    letters = "abcdefgh"[: classes + 2]
    splits = {}
    for split, samples in {"train": train, "validation": validation, "test": test}.items():
        labels = rng.permutation(np.arange(samples) % classes)
        tokens_NL = np.zeros((samples, longest), np.int32)
        lengths = rng.integers(1, longest + 1, samples)
        lengths[:2] = 1, longest
        for row, length, label in zip(tokens_NL, lengths, labels, strict=True):
            others = rng.integers(0, len(letters), length)
            mostly = rng.permutation(np.arange(length)) < length // 2 + 1
            row[:length] = np.where(mostly, label, others) + len(SPECIAL)
        splits[split] = tokens_NL, labels
    vocabulary = Vocabulary("characters", False, longest, (*SPECIAL, *letters))
    (folder / VOCABULARY).write_text(vocabulary.as_json(), encoding="utf-8")
    return written(
        folder,
        splits,
        kind="tokens",
        shape=(longest,),
        classes=tuple(f"mostly {letter}" for letter in letters[:classes]),
        vocabulary_size=len(vocabulary.tokens),
    )


def toy_numbers(
    folder: Path,
    *,
    task: str = "classification",
    features: int = 6,
    outputs: int = 3,
    train: int = 400,
    test: int = 121,
    scales: tuple[float, ...] = (),
) -> DataRef:
    """Write rows of features on very different scales into a folder; the answers are linear functions of them.

    Args:
        outputs: number of classes (the largest function), labels (functions above 0) or targets (values).
        scales: scale of each target; by default 1.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(features, outputs))
    units = 10.0 ** np.arange(-2, features - 2)
    splits = {}
    for split, samples in {"train": train, "test": test}.items():
        plain = rng.normal(size=(samples, features))
        values = plain @ weights
        match task:
            case "classification":
                labels = values.argmax(1)
            case "multilabel":
                labels = (values > 0).astype(np.uint8)
            case _:
                labels = ((values + 1) * np.array(scales or 1.0)).astype(np.float32)
        splits[split] = ((plain + 3) * units).astype(np.float32), labels
    inputs, labels = splits["train"]
    mean, std = inputs.mean(0, np.float64), inputs.std(0, np.float64)
    targets = {}
    if task == "regression":
        targets["target_mean"] = tuple(map(float, labels.mean(0, np.float64)))
        targets["target_std"] = tuple(map(float, labels.std(0, np.float64)))
    return written(
        folder,
        splits,
        kind="numbers",
        task=task,
        shape=(features,),
        classes=tuple(f"{task} {number}" for number in range(outputs)),
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        **targets,
    )


def written(folder: Path, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], **described) -> DataRef:
    """Write the files of a prepared data set, and return its reference."""
    for split, (inputs, labels) in splits.items():
        np.save(folder / f"{split}_inputs.npy", inputs)
        np.save(folder / f"{split}_labels.npy", labels)
    sizes = {f"{split}_size": len(labels) for split, (_, labels) in splits.items()}
    return DataRef(name="toy", folder=folder, sha256="0" * 64, source="drawn by a test", **sizes, **described)


def made(name: str, data: DataRef, scheme: str = "xavier_normal", seed: int = 0, **arguments: object) -> nn.Module:
    """Build a network with its first weights, without validating its name."""
    model = ModelConfig().model_copy(update={"name": name, "args": arguments})
    return initialize(model, InitializeConfig.model_validate(scheme), data, seed)[0]


@torch.no_grad()
def with_different_answers(network: nn.Module, test: Samples, data: DataRef) -> nn.Module:
    """Shift an untrained network's biases by the mean outputs, so that it gives different answers."""
    model = StandardizedModel.of(network, data, in_units=False).train()
    some, _ = test.take(torch.arange(min(40, len(test))))
    for _ in range(30):  # statistics of batch norm
        model(some)
    last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)][-1]
    off = predict(model.eval(), test, 64).mean(0)
    before = torch.zeros_like(off) if last.bias is None else last.bias.clone()
    last.bias = nn.Parameter(before - off)
    left = predict(model, test, 64).mean(0)  # for a network that scales its last layer's output
    last.bias = nn.Parameter(before - off * (off / (off - left)))
    return network
