"""The steps of plain_script.py as steps of a ZenML pipeline, on a local stack with an MLflow experiment tracker."""

import sys

import mlflow
import torch
from zenml import pipeline, step

from benchmarks import plain_script

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
TRACKER = "mlflow"


@step
def load() -> Parts:
    train_images, test_images, train_labels, test_labels = plain_script.load()
    return train_images, test_images, train_labels, test_labels  # ZenML counts the names in this statement


@step(experiment_tracker=TRACKER)
def train(images: torch.Tensor, labels: torch.Tensor) -> plain_script.SimpleCNN:
    return plain_script.train(images, labels)


@step(experiment_tracker=TRACKER)
def evaluate(network: plain_script.SimpleCNN, images: torch.Tensor, labels: torch.Tensor) -> float:
    return plain_script.evaluate(network, images, labels)


@step(experiment_tracker=TRACKER)
def export(network: plain_script.SimpleCNN, images: torch.Tensor, path: str) -> str:
    plain_script.export(network, images, path)
    mlflow.log_metric("onnx_max_abs_diff", plain_script.compare(network, images, path))
    return path


@step(experiment_tracker=TRACKER)
def register(path: str) -> None:
    plain_script.register(path)


@pipeline(enable_cache=False)
def digits(path: str) -> None:
    train_images, test_images, train_labels, test_labels = load()
    network = train(train_images, train_labels)
    evaluate(network, test_images, test_labels)
    register(export(network, test_images, path))


if __name__ == "__main__":
    digits(sys.argv[1])
