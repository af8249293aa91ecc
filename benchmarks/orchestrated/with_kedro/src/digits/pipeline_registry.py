"""The steps of plain_script.py as nodes of a Kedro pipeline; kedro-mlflow opens an MLflow run around them."""

import mlflow
from kedro.pipeline import Pipeline, node

from benchmarks import plain_script


def compare(network, images, path):
    mlflow.log_metric("onnx_max_abs_diff", plain_script.compare(network, images, path))


def register_pipelines() -> dict[str, Pipeline]:
    parts = ["train_images", "test_images", "train_labels", "test_labels"]
    return {
        "__default__": Pipeline(
            [
                node(plain_script.load, None, parts),
                node(plain_script.train, ["train_images", "train_labels"], "network"),
                node(plain_script.evaluate, ["network", "test_images", "test_labels"], "accuracy"),
                node(plain_script.export, ["network", "test_images", "params:path"], "onnx"),
                node(compare, ["network", "test_images", "onnx"], None),
                node(plain_script.register, "onnx", None),
            ]
        )
    }
