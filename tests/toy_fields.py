"""Small data sets of named fields, made by functions as a user writes them, and tasks and networks for them."""

from pathlib import Path

from torchmill.components.data.fetch import fetch
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.refs import DataRef

OWN = '''
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def scans(samples=60, side=12):
    """Bright squares on noise, with their masks; the last column is ignored."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 60, (samples, side, side, 3)).astype(np.uint8)
    masks = np.zeros((samples, side, side), np.int64)
    for picture, mask in zip(pictures, masks):
        row, column = rng.integers(0, side - 4, 2)
        picture[row : row + 4, column : column + 4] += 150
        mask[row : row + 4, column : column + 4] = 1
    masks[:, :, -1] = -100
    return {"image": pictures, "mask": masks}


def pairs(samples=80):
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, samples, 6)).astype(np.float32)
    same = (left[:, 0] > right[:, 0]).astype(int)
    return {"train": {"left": left, "right": right + 3, "same": same}, "targets": ["same"]}


def ragged(samples=70):
    rng = np.random.default_rng(2)
    tokens = [rng.integers(1, 9, rng.integers(2, 8)) for _ in range(samples)]
    return {"tokens": tokens, "tags": [(row > 4).astype(int) for row in tokens]}


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.drop = nn.Linear(6, 4), nn.Dropout(0.2)

    def forward(self, right, left):
        return self.drop(self.body(left)), self.body(right)


class Distance:
    main_measure = "accuracy"

    def loss(self, network, batch):
        left, right = network(batch)
        apart = (left - right).square().mean(1)
        logistic = F.binary_cross_entropy_with_logits(-apart, batch["same"].float())
        return {"logistic": logistic, "size": 0.01 * apart.mean()}

    def predict(self, network, inputs):
        left, right = network(inputs)
        return {"distance": (left - right).square().mean(1)}

    def measure(self, answer, batch):
        return {"accuracy": (answer["distance"] < 1) == (batch["same"] == 1)}


class Tagger(nn.Module):
    def __init__(self, num_embeddings, num_classes):
        super().__init__()
        self.embedding, self.head = nn.Embedding(num_embeddings, 8), nn.Linear(8, num_classes)

    def forward(self, tokens, attention_mask):
        return self.head(self.embedding(tokens) * attention_mask[..., None])


class Tagging:
    main_measure = "accuracy"

    def loss(self, network, batch):
        mask = torch.arange(batch["tags"].shape[1]) < batch["lengths"][:, None]
        return F.cross_entropy(network(batch)[mask], batch["tags"][mask])

    def predict(self, network, inputs):
        return {"logits": network(inputs)}

    def measure(self, answer, batch):
        mask = torch.arange(batch["tags"].shape[1]) < batch["lengths"][:, None]
        right = (answer["logits"].argmax(-1) == batch["tags"]) & mask
        return {"right": right.sum(1), "tokens": mask.sum(1)}

    def summarize(self, means):
        return {"accuracy": means["right"] / means["tokens"]}


class Gan(nn.Module):
    def __init__(self, image_size=8):
        super().__init__()
        self.size = image_size
        self.generator = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, image_size**2))
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(image_size**2, 16), nn.ReLU(), nn.Linear(16, 1))


class Adversarial:
    noise = {"noise": (5,)}
    phases = {
        "critic": {"parameters": "critic.*"},
        "generator": {"parameters": "generator.*", "every": 2, "lr_factor": 0.5},
    }

    def critic_loss(self, network, batch):
        fake = network.generator(batch["noise"])
        return F.softplus(-network.critic(batch["image"])).mean() + F.softplus(network.critic(fake)).mean()

    def generator_loss(self, network, batch):
        return F.softplus(-network.critic(network.generator(batch["noise"]))).mean()

    def predict(self, network, inputs):
        return {"image": network.generator(inputs["noise"]).view(-1, 1, network.size, network.size)}

    def measure(self, answer, batch):
        return {"brightness": answer["image"].mean((1, 2, 3))}
'''


def own_file(folder: Path, more: str = "") -> Path:
    """Write the file of a user's data, networks and tasks, in a folder; return its path."""
    file = folder / "own.py"
    file.write_text(OWN + more)
    return file


def own_data(folder: Path, function: str, task: str, more: str = "") -> DataRef:
    """Return the prepared data of a function in ``own.py``, for a built-in task or a class in that file."""
    file = own_file(folder, more)
    reference = f"{file}:{task}" if task[0].isupper() else task
    return for_task(fetch(f"{file}:{function}", folder / "cache"), TaskConfig(name=reference))
