"""Seconds from 10,000 PNG files to a CSV file with an answer for each.

- ours: `predict`, behind `torchmill predict`. It also opens the model, finds the files, writes in parts so that a kill
  loses little, and collects statistics of the inputs. Threads decode the files.
- plain: a usual loop over PIL and onnxruntime in batches of 256: open, convert, resize, stack, run, softmax, and a row
  of the csv module per file. onnxruntime has a thread per processor.

Both use the same exported network, SimpleCNN for 28×28 grey pixels. The images are synthetic: smooth blobs with noise,
40 to 96 pixels wide and high, in color. Both sides convert them to grey and resize them.
"""

import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.measure import Claim, in_turn
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.initialization.build import initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.prediction.predict import predict
from torchmill.components.processes import processors
from torchmill.components.refs import DataRef

FILES, SIZE, BATCH, ROUNDS = 10_000, 28, 256, 5


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder / "pictures")
        export(folder / "model.onnx")
        measures = {"ours": lambda: ours(folder), "plain": lambda: plain(folder)}
        figures = in_turn(measures, ROUNDS)
        answers = [labels(folder / f"{name}.csv") for name in measures]
        same = float(np.mean([mine == theirs for mine, theirs in zip(*answers, strict=True)]))
    subject = f"predict, {FILES:,} PNG files to a CSV file"
    note = f"{same:.2%} of the answers are the same."
    return [Claim(subject, "PIL and onnxruntime in a loop", figures["ours"], figures["plain"], "s", "≤ 1", note)]


def write_pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(FILES):
        width, height = rng.integers(40, 97, 2)
        blobs = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        smooth = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-8, 9, smooth.shape, np.int16)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05}.png")


def export(path: Path) -> None:
    data = DataRef(
        name="made up",
        folder=path.parent,
        sha256="0" * 64,
        source="",
        shape=(1, SIZE, SIZE),
        classes=tuple(map(str, range(10))),
        train_size=1,
        test_size=1,
        mean=(0.5,),
        std=(0.25,),
    )
    network, _ = initialize(ModelConfig(), InitializeConfig(), data, 0)
    to_onnx(network, data, {}, path)


def ours(folder: Path) -> float:
    started = time.perf_counter()
    predict(folder / "model.onnx", [folder / "pictures"], folder / "ours.csv")
    return time.perf_counter() - started


def plain(folder: Path) -> float:
    import onnxruntime

    started = time.perf_counter()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = processors()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    files = sorted((folder / "pictures").iterdir())
    with (folder / "plain.csv").open("w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "label", "confidence", *(f"probability of {label}" for label in range(10)), "error"])
        for start in range(0, len(files), BATCH):
            images = []
            for file in files[start : start + BATCH]:
                with Image.open(file) as image:
                    fitted = ImageOps.fit(image.convert("L"), (SIZE, SIZE), Image.Resampling.BILINEAR)
                    images.append(np.asarray(fitted)[None])
            logits = session.run(None, {"pixels": np.stack(images)})[0]
            exponentials = np.exp(logits - logits.max(1, keepdims=True))
            probabilities = exponentials / exponentials.sum(1, keepdims=True)
            for file, row in zip(files[start : start + BATCH], probabilities, strict=True):
                writer.writerow([file, row.argmax(), row.max(), *row, ""])
    return time.perf_counter() - started


def labels(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["label"] for row in csv.DictReader(file)]
