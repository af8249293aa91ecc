"""Data, task and network of a user's own file, tried as a run would, without its flow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torchmill.components.data.fetch import fetch
from torchmill.components.data.field_samples import FieldSamples, Split, read_fields
from torchmill.components.evaluation.field_evaluation import evaluate_fields
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.field_export import export_fields
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef, ExportRef


@dataclass(frozen=True)
class Trial:
    """A network with its data and its task."""

    data: DataRef
    network: nn.Module
    folder: Path

    @classmethod
    def of(cls, folder: Path, data: str, task: str, model: str, **task_args: object) -> "Trial":
        return cls.with_data(folder, fetch(data, folder / "cache"), task, model, task_args=dict(task_args))

    @classmethod
    def with_data(
        cls, folder: Path, data: DataRef, task: str, model: str, task_args: Mapping = {}, model_args: Mapping = {}
    ) -> "Trial":
        described = for_task(data, TaskConfig(name=task, args=task_args))
        network, _ = initialize(ModelConfig(name=model, args=dict(model_args)), InitializeConfig(), described, 0)
        return cls(described, network, folder)

    @property
    def task(self) -> FieldTask:
        return FieldTask.open(self.data)

    @property
    def model(self) -> FieldsModel:
        return FieldsModel.of(self.network, self.data)

    def samples(self, split: Split = "test") -> FieldSamples:
        return read_fields(self.data, split)

    def train(self, steps: int, size: int = 64, lr: float = 5e-3) -> None:
        """Train by some steps of Adam."""
        samples, model, task = self.samples("train"), self.model.train(), self.task
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        rng = torch.Generator().manual_seed(0)
        for _ in range(steps):
            batch = model.prepared(samples.take(torch.randint(len(samples), (size,), generator=rng)))
            optimizer.zero_grad()
            task.loss(model, batch)[0].backward()
            optimizer.step()
        self.network.eval()

    def evaluate(self) -> dict:
        """Return ``evaluation.json``."""
        folder = self.folder / "evaluation"
        folder.mkdir(exist_ok=True)
        evaluate_fields(self.network, self.samples(), self.data, torch.device("cpu"), 32, folder)
        return json.loads((folder / "evaluation.json").read_text())

    def export(self) -> tuple[ExportRef, dict[str, np.ndarray]]:
        """Return the proven ONNX model, and its answers to its example, by name."""
        folder = self.folder / "export"
        folder.mkdir(exist_ok=True)
        ref = export_fields(self.network, self.data, self.samples(), ExportConfig(), {}, folder)
        session = open_session(ref.onnx.path)
        with np.load(ref.example.path) as example:
            inputs = {entry.name: example[entry.name] for entry in session.get_inputs()}
        names = [entry.name for entry in session.get_outputs()]
        return ref, dict(zip(names, session.run(names, inputs), strict=True))
