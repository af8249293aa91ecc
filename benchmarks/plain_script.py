"""A script without Torchmill: the same steps on the same data, tracked in MLflow.

It follows each library's documentation, except where that only wastes time: `pip_requirements` are given, because
MLflow would otherwise run the model to find them, and metrics are logged per epoch. It doesn't compare the ONNX model.

Each step's function holds its imports, because orchestrators run them too (see orchestrated.py), some of
them in a process per step. These also run `compare`.
"""

import sys

import torch
from torch import Tensor, nn

EXPERIMENT, EPOCHS = "digits", 5


class SimpleCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 32, 3, padding=1), nn.Conv2d(32, 64, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(3136, 128), nn.Linear(128, 10)
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = torch.relu(torch.max_pool2d(self.conv1(x), 2))
        x = torch.relu(torch.max_pool2d(self.conv2(x), 2))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return standardized training and test images, and the labels of each."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(images, size=28, mode="bilinear")
    labels = torch.tensor(digits.target)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    mean, std = train_images.mean(), train_images.std()
    return (train_images - mean) / std, (test_images - mean) / std, train_labels, test_labels


def train(images: Tensor, labels: Tensor, epochs: int = EPOCHS) -> SimpleCNN:
    import mlflow
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    mlflow.log_params({"epochs": epochs, "lr": 1e-3, "batch_size": 64})
    batches = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    network = SimpleCNN()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=epochs * len(batches))
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for batch_images, batch_labels in batches:
            loss = nn.functional.cross_entropy(network(batch_images), batch_labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch_labels)
        mlflow.log_metric("train_loss", total / len(labels), step=epoch)
    return network


def evaluate(network: SimpleCNN, images: Tensor, labels: Tensor) -> float:
    import mlflow
    from sklearn.metrics import ConfusionMatrixDisplay, classification_report

    network.eval()
    with torch.no_grad():
        answers = network(images).argmax(1)
    accuracy = (answers == labels).float().mean().item()
    mlflow.log_metric("test_accuracy", accuracy)
    mlflow.log_dict(classification_report(labels, answers, output_dict=True), "report.json")
    mlflow.log_figure(ConfusionMatrixDisplay.from_predictions(labels, answers).figure_, "confusion.png")
    return accuracy


def export(network: SimpleCNN, images: Tensor, path: str) -> str:
    program = torch.onnx.export(
        network.eval(), (images[:2],), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
    )
    program.save(path)
    return path


@torch.no_grad()
def compare(network: SimpleCNN, images: Tensor, path: str) -> float:
    """Return the largest difference between the answers of onnxruntime and of the network.

    Raises:
        ValueError: the difference is larger than rounding.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    difference = (torch.from_numpy(answers) - network.eval()(images)).abs().max().item()
    if difference > 1e-4:
        raise ValueError(f"The ONNX model differs by {difference}")
    return difference


def register(path: str) -> None:
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import infer_signature

    mlflow.onnx.log_model(
        onnx.load(path),
        name="onnx",
        registered_model_name="digits",
        signature=infer_signature(np.zeros((2, 1, 28, 28), np.float32), np.zeros((2, 10), np.float32)),
        pip_requirements=["onnxruntime", "onnx", "numpy"],
        save_as_external_data=False,
    )


def main(folder: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/plain.db")
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:
        mlflow.create_experiment(EXPERIMENT, f"file://{folder}/plain-artifacts")
    mlflow.set_experiment(EXPERIMENT)
    train_images, test_images, train_labels, test_labels = load()
    with mlflow.start_run():
        network = train(train_images, train_labels)
        evaluate(network, test_images, test_labels)
        register(export(network, test_images, f"{folder}/plain.onnx"))


if __name__ == "__main__":
    main(sys.argv[1])
