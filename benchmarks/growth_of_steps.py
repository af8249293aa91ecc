"""Seconds of each step of a training over the number of samples, 1,000 to 100,000, and of classes, 10 to 1,000.

The images are of tight classes: a prototype with a little noise, so that a search for copies has many candidates. A
fifth is for test. The exponent is that between the two largest sizes: 1 is linear, and an exponent of 1.1 is a ratio of
12.6. A step has a constant part as well, which the smallest size shows. The epoch itself is left out.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Claim

ROUNDS = 1
SAMPLES, CLASSES = (1_000, 10_000, 100_000), (10, 100, 1_000)
SIZES = {"samples": [(count, 10) for count in SAMPLES], "classes": [(10_000, count) for count in CLASSES]}
"""Numbers of samples and classes, the largest last."""
STEPS = ("fetch", "inspect", "initialize", "check", "evaluate", "export")
REST = "start, records and report"
GOAL = f"≤ {10**1.1:.1f}"

DATA = """
import numpy as np

def images(samples, classes):
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 200, (classes, 1, 28, 28))

    def split(count):
        labels = np.arange(count) % classes
        images = np.empty((count, 1, 28, 28), np.uint8)
        for start in range(0, count, 5000):
            chosen = labels[start : start + 5000]
            images[start : start + 5000] = prototypes[chosen] + rng.integers(0, 20, (len(chosen), 1, 28, 28))
        return images, labels

    return {"train": split(samples * 8 // 10), "test": split(samples * 2 // 10)}
"""


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a server may still write
        place = Path(folder)
        (place / "tight.py").write_text(DATA)
        train(place, 1_000, 10)  # warm-up
        seconds: dict[tuple[int, int], list[dict[str, float]]] = {}
        for turn in range(ROUNDS):
            sizes = dict.fromkeys([*SIZES["samples"], *SIZES["classes"]])
            for size in sizes if turn % 2 else reversed(sizes):
                seconds.setdefault(size, []).append(train(place, *size))
                print(f"round {turn + 1}  {size}  {seconds[size][-1]}", flush=True)
    return [claim(seconds, kind, step) for kind in SIZES for step in (*STEPS, REST)]


def claim(seconds: dict[tuple[int, int], list[dict[str, float]]], kind: str, step: str) -> Claim:
    """Compare a step at the largest size with the same step at a tenth of it."""
    smallest, small, large = [[row[step] for row in seconds[size]] for size in SIZES[kind]]
    medians = [statistics.median(values) for values in (smallest, small, large)]
    exponent = math.log10(medians[2] / medians[1])
    note = (
        f"{step}, 10 × the {kind} twice: {', '.join(f'{value:.2f}' for value in medians)} s; exponent {exponent:.2f}."
    )
    return Claim("steps with 10 × the samples or classes", f"{step}, {kind}", large, small, "s", GOAL, note)


def train(place: Path, samples: int, classes: int) -> dict[str, float]:
    """Train for one epoch without results of earlier runs; return the seconds of each step, and of the rest."""
    environment = os.environ | {"TORCHMILL_RUNS": str(place / "mlruns"), "TORCHMILL_DATA": str(place / "data")}
    settings = ("--model", "mlp", "--train.epochs", "1", "--train.batch_size", "500")
    arguments = ("--data", "tight.py:images", "--data.args", json.dumps({"samples": samples, "classes": classes}))
    command = [sys.executable, "-P", "-m", "torchmill", "train", "--json", "--fresh", *settings, *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True, text=True)
    total = time.perf_counter() - started
    steps = json.loads(done.stdout.splitlines()[-1])["steps"]
    seconds = {step: steps[step]["seconds"] for step in STEPS}
    return {**seconds, REST: total - sum(step["seconds"] for step in steps.values())}
