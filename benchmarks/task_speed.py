"""Samples/s of training alone at tasks over named fields, all in one process and in turn.

- ours: an epoch of `fit`, by its own figure.
- bare loop: the same mathematics over tensors in memory (fused Adam, one-cycle; channels-last for pictures), and
  nothing else.
- Lightning: a LightningModule over a DataLoader of these tensors, as its documentation does; its callbacks time the
  epoch alone.

Segmentation has a U-Net of width 16 on pictures of 96 x 96; the language model is `gpt` at its defaults over windows of
64 characters; two inputs are pairs of pictures for a network with one body, and a contrastive loss.
"""

import contextlib
import io
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import Claim, in_turn
from benchmarks.throughput import importable
from torchmill.components.data.fetch import fetch
from torchmill.components.data.field_samples import read_fields
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.processes import processors
from torchmill.components.refs import DataRef
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.config import TrainConfig
from torchmill.components.training.fit import fit
from torchmill.components.training.setup import TrainingSetup

ROUNDS, LR = 5, 1e-3
OWN = Path(__file__).parent / "tasks" / "speed.py"


@dataclass(frozen=True)
class Case:
    """A task, and the same loss written out."""

    function: str
    task: str
    model: str
    batch: int
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    """Loss of a network for prepared fields."""


def segmentation_loss(network: nn.Module, fields: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(network(fields["image"]), fields["mask"])


def language_loss(network: nn.Module, fields: dict[str, Tensor]) -> Tensor:
    tokens = fields["tokens"]
    return F.cross_entropy(network(F.pad(tokens[:, :-1], (1, 0))).flatten(0, 1), tokens.flatten())


def contrastive_loss(network: nn.Module, fields: dict[str, Tensor]) -> Tensor:
    left, right = network(fields["left"], fields["right"])
    apart, same = (left - right).square().sum(1), fields["same"].float()
    far = (1 - apart.clamp(min=1e-9).sqrt()).clamp(min=0).square()
    return (same * apart + (1 - same) * far).mean()


CASES = {
    "segmentation": Case("pictures", "segmentation", "unet", 16, segmentation_loss),
    "language model": Case("windows", "language_model", "gpt", 32, language_loss),
    "two inputs": Case("pairs", f"{OWN}:Contrastive", f"{OWN}:Siamese", 64, contrastive_loss),
}


def measure() -> list[Claim]:
    torch.set_num_threads(processors())
    claims = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            data = for_task(fetch(f"{OWN}:{case.function}", Path(folder) / "cache"), TaskConfig(name=case.task))
            fields = prepared(data)
            measures = {
                "ours": lambda data=data, case=case, folder=folder: ours(data, case, Path(folder)),
                "bare loop": lambda data=data, case=case, fields=fields: bare_loop(data, case, fields),
            }
            if importable("lightning"):
                measures["Lightning"] = lambda data=data, case=case, fields=fields, folder=folder: lightning_loop(
                    data, case, fields, folder
                )
            figures = in_turn(measures, ROUNDS)
        reach = {"bare loop": "≥ 0.97", "Lightning": "≥ 1.0"}
        claims += [
            Claim("fit of other tasks", f"{name}, {other}", figures["ours"], figures[other], "samples/s", reach[other])
            for other in figures
            if other != "ours"
        ]
    return claims


def network(data: DataRef, case: Case) -> nn.Module:
    return initialize(ModelConfig(name=case.model), InitializeConfig(), data, 0)[0]


def ours(data: DataRef, case: Case, folder: Path) -> float:
    config = TrainConfig(epochs=1, batch_size=case.batch, lr=LR)
    training, few = read_fields(data, "train"), read_fields(data, "test")
    checkpoints, best = Checkpoints(folder / "checkpoints", config.checkpoint_seconds), folder / "best.safetensors"
    setup = TrainingSetup(network(data, case), training, few, data, config, torch.device("cpu"), 0)
    (epoch,) = fit(setup, checkpoints, best)
    checkpoints.tidy().unlink()
    return epoch.samples_per_second


def prepared(data: DataRef) -> dict[str, Tensor]:
    """Return the training fields as networks take them."""
    training = read_fields(data, "train")
    model = FieldsModel.of(nn.Identity(), data)
    batch = model.prepared(training.take(torch.arange(len(training))))
    return {
        name: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value
        for name, value in batch.items()
    }


def bare_loop(data: DataRef, case: Case, fields: dict[str, Tensor]) -> float:
    model = network(data, case).to(memory_format=torch.channels_last).train()
    samples = len(next(iter(fields.values())))
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, fused=True)
    steps = -(-samples // case.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=steps)
    started = time.perf_counter()
    for rows in torch.randperm(samples).split(case.batch):
        loss = case.loss(model, {name: values[rows] for name, values in fields.items()})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return samples / (time.perf_counter() - started)


def lightning_loop(data: DataRef, case: Case, fields: dict[str, Tensor], folder: str) -> float:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network(data, case)

        def training_step(self, batch, _):
            return case.loss(self.model, dict(zip(fields, batch, strict=True)))

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=LR)

        def on_train_epoch_start(self):
            self.started = time.perf_counter()

        def on_train_epoch_end(self):
            self.seconds = time.perf_counter() - self.started

    dataset = TensorDataset(*(values.contiguous() for values in fields.values()))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        module = Module()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **quiet)
        trainer.fit(module, DataLoader(dataset, batch_size=case.batch, shuffle=True))
    return len(dataset) / module.seconds
