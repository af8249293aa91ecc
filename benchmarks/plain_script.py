"""What one writes without Torchmill: the same steps on the same data in one script, tracked in MLflow.

Each library is used as its documentation does, except where that would only waste time: `pip_requirements` are given
(MLflow would look for them by running the model), and metrics are logged per epoch. It compares nothing afterwards.
"""

import sys

import mlflow
import mlflow.onnx
import numpy as np
import onnx
import torch
from mlflow.models import infer_signature
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, classification_report
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


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


def main(folder: str, epochs: int = 5) -> None:
    torch.manual_seed(0)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/plain.db")
    if mlflow.get_experiment_by_name("digits") is None:
        mlflow.create_experiment("digits", f"file://{folder}/plain-artifacts")
    mlflow.set_experiment("digits")

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(images, size=28, mode="bilinear")
    labels = torch.tensor(digits.target)
    parts = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts
    mean, std = train_images.mean(), train_images.std()
    train_images, test_images = (train_images - mean) / std, (test_images - mean) / std
    batches = DataLoader(TensorDataset(train_images, train_labels), batch_size=64, shuffle=True)

    with mlflow.start_run():
        mlflow.log_params({"epochs": epochs, "lr": 1e-3, "batch_size": 64})
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
            mlflow.log_metric("train_loss", total / len(train_labels), step=epoch)

        network.eval()
        with torch.no_grad():
            answers = network(test_images).argmax(1)
        mlflow.log_metric("test_accuracy", (answers == test_labels).float().mean().item())
        mlflow.log_dict(classification_report(test_labels, answers, output_dict=True), "report.json")
        mlflow.log_figure(ConfusionMatrixDisplay.from_predictions(test_labels, answers).figure_, "confusion.png")

        path = f"{folder}/plain.onnx"
        program = torch.onnx.export(
            network, (test_images[:2],), dynamo=True, dynamic_shapes=({0: "batch"},), verbose=False
        )
        program.save(path)
        mlflow.onnx.log_model(
            onnx.load(path),
            name="onnx",
            registered_model_name="digits",
            signature=infer_signature(test_images[:2].numpy(), np.zeros((2, 10), np.float32)),
            pip_requirements=["onnxruntime", "onnx", "numpy"],
            save_as_external_data=False,
        )


if __name__ == "__main__":
    main(sys.argv[1])
