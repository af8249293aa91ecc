"""The steps of plain_script.py as tasks of a Prefect flow, in an MLflow run."""

import sys

import mlflow
from prefect import flow, task

from benchmarks import plain_script

load = task(plain_script.load)
train = task(plain_script.train)
evaluate = task(plain_script.evaluate)
export = task(plain_script.export)
compare = task(plain_script.compare)
register = task(plain_script.register)


@flow(name="digits")
def digits(path: str) -> None:
    mlflow.set_experiment(plain_script.EXPERIMENT)
    with mlflow.start_run():
        train_images, test_images, train_labels, test_labels = load()
        network = train(train_images, train_labels)
        evaluate(network, test_images, test_labels)
        export(network, test_images, path)
        mlflow.log_metric("onnx_max_abs_diff", compare(network, test_images, path))
        register(path)


if __name__ == "__main__":
    digits(sys.argv[1])
