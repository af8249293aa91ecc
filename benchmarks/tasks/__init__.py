"""How good networks get at tasks over named fields, on real data, beside a goal or another method.

- segmentation: `unet` of width 12 on canvases with MNIST's digits, ten epochs.
- language model: `gpt` over names, beside an interpolated Kneser-Ney 5-gram model of the same training texts.
- variational autoencoder with 20 latent numbers on MNIST, fifteen epochs: the bound on the test split, a draw a sample.
- adversarial network on MNIST, eight epochs: a classifier (recipes/mnist-fast.yaml) must find each digit at least ten
  times among 1,000 pictures, with a probability above 0.9.
- forecasting: `tcn` on half-hourly electricity demand in England and Wales (Taylor 2003; in the package pmdarima), the
  next day from the last week, beside the demand a day before.

- table: `mlp` at its defaults on benchmarks/wild_table.py, beside HistGradientBoosting; 0.98 is a distance of 0.02.

Each runs `torchmill train` once. Needs MNIST and names, from the cache or from the mirror in TORCHMILL_MIRROR.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np

from benchmarks import wild_table
from benchmarks.measure import Claim
from benchmarks.tasks.gan import CODE
from benchmarks.tasks.ngram import KneserNey
from torchmill.components.data.fetch import fetch
from torchmill.components.onnx_model.session import open_session
from torchmill.components.runs.folders import data_cache

HERE = Path(__file__).parent
TASKS = "real tasks"
IOU, SECONDS, NATS = 0.90, 300.0, 105.0


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        parts = segmentation, language_model, variational, adversarial, forecasting, table
        return [claim for part in parts for claim in part(runs)]


def segmentation(runs: Path) -> list[Claim]:
    arguments = ["--model.args.width", "12", "--train.epochs", "10", "--train.batch_size", "16", "--train.lr", "0.01"]
    data = f"{HERE / 'canvases.py'}:canvases"
    result = train(runs, "--data", data, "--task", "segmentation", "--model", "unet", *arguments)
    seconds = result["steps"]["fit"]["seconds"]
    return [
        Claim(TASKS, "IoU of digits on canvases, goal of 0.90", [result["metrics"]["test_iou"]], [IOU], "", "≥ 1.0"),
        Claim(TASKS, "its fit, five minutes", [seconds], [SECONDS], "", "≤ 1.0"),
    ]


def language_model(runs: Path) -> list[Claim]:
    arguments = ["--train.epochs", "40", "--train.batch_size", "32", "--train.lr", "0.002"]
    arguments += ["--train.optimizer", "adamw", "--train.weight_decay", "0.1"]
    arguments += ["--model.args.layers", "4", "--model.args.dropout", "0.2"]
    result = train(runs, "--data", "names", "--task", "language_model", "--model", "gpt", *arguments)
    folder = fetch("names", data_cache()).folder
    splits = {split: np.load(folder / f"{split}_inputs.npy").tolist() for split in ("train", "test")}
    texts = {split: [[token for token in row if token] for row in rows] for split, rows in splits.items()}
    theirs = KneserNey(texts["train"]).bits(texts["test"])
    return [Claim(TASKS, "bits of gpt on names, 5-gram", [result["metrics"]["test_bits"]], [theirs], "", "≤ 1.0")]


def variational(runs: Path) -> list[Claim]:
    arguments = ["--task.args.noise", "20", "--model", f"{HERE / 'vae.py'}:VAE", "--train.epochs", "15"]
    arguments += ["--train.batch_size", "128", "--train.lr", "0.002"]
    result = train(runs, "--data", "mnist", "--task", "reconstruction", *arguments)
    return [Claim(TASKS, "bound of a VAE on MNIST, 105 nats", [result["metrics"]["test_nats"]], [NATS], "", "≤ 1.0")]


def adversarial(runs: Path) -> list[Claim]:
    file = HERE / "gan.py"
    arguments = ["--model", f"{file}:GAN", "--train.epochs", "8", "--train.batch_size", "128", "--train.lr", "0.0003"]
    arguments += ["--train.optimizer_args", '{"betas": [0.5, 0.999]}', "--train.schedule", "constant"]
    generator = train(runs, "--data", "mnist", "--task", f"{file}:Adversarial", *arguments)
    classifier = train(runs, "--config", str(HERE.parents[1] / "recipes" / "mnist-fast.yaml"))
    noise = np.random.default_rng(0).normal(size=(1000, CODE)).astype(np.float32)
    (pictures,) = open_session(Path(generator["onnx"]["path"])).run(["image"], {"noise": noise})
    pixels = (255 * pictures).round().clip(0, 255).astype(np.uint8)
    index, probabilities = open_session(Path(classifier["onnx"]["path"])).run(
        ["index", "probabilities"], {"pixels": pixels}
    )
    counts = np.bincount(index[probabilities.max(1) > 0.9], minlength=10)
    note = f"Of each digit it finds {counts.min()} to {counts.max()}."
    return [Claim(TASKS, "digits of a GAN on MNIST, all ten", [float((counts >= 10).sum())], [10.0], "", "≥ 1.0", note)]


def forecasting(runs: Path) -> list[Claim]:
    package = PathFinder.find_spec("pmdarima", [*sys.path, str(HERE.parents[1] / ".venv-bench")])
    if package is None or not package.submodule_search_locations:
        print("pmdarima, which holds the series, is not installed: skipped", flush=True)
        return []
    file = runs / "demand.csv"
    write_demand(Path(package.submodule_search_locations[0]) / "datasets" / "taylor.py", file)
    arguments = ["--task", "forecasting", "--model", "tcn", "--data.args.context", "336", "--train.epochs", "15"]
    result = train(runs, "--data", f"series:{file}", *arguments)
    metrics = result["metrics"]
    naive = metrics["test_seasonal_naive_mase"]
    note = f"Its band of 90 % covers {metrics['test_coverage']:.1%} of the values."
    return [
        Claim(TASKS, "MASE of electricity demand, a day before", [metrics["test_mase"]], [naive], "", "≤ 1.0", note)
    ]


def table(runs: Path) -> list[Claim]:
    wild_table.write(runs / "houses.csv", wild_table.houses())
    ours, theirs = wild_table.trained(runs, "linear"), wild_table.boosted(runs, False)
    return [Claim(TASKS, "R² of a table from the wild, HistGradientBoosting", [ours], [theirs], "", "≥ 0.98")]


def write_demand(source: Path, file: Path) -> None:
    """Write the half-hourly series, which the package holds as a list in its code, with its times."""
    text = source.read_text(encoding="utf-8")
    values = re.findall(r"\d{4,6}", text[text.index("rslt = ") :].partition("])")[0])
    start = datetime(2000, 6, 5)
    rows = [f"{start + timedelta(minutes=30 * number)},{value}\n" for number, value in enumerate(values)]
    file.write_text("time,demand\n" + "".join(rows), encoding="utf-8")


def train(runs: Path, *arguments: str) -> dict:
    """Run `torchmill train`, and return its result."""
    command = [sys.executable, "-m", "torchmill", "--runs", str(runs / "runs"), "train", "--json", *arguments]
    finished = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), cwd=runs, check=False)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])
