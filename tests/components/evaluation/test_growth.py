"""An evaluation takes no longer per class than with few of them. Times are compared as ratios, at two sizes."""

import time
from collections.abc import Callable

import numpy as np
import torch

from torchmill.components import tasks
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.metrics.plots import draw_confusion, draw_labels
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.metrics.scores import ClassScore, macro_intervals, target_intervals

SAMPLES = 2000


def seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of the faster of two runs."""
    taken = []
    for _ in range(2):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return min(taken)


def confused(classes: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (rng.integers(0, classes, SAMPLES), rng.integers(0, classes, SAMPLES)), 1)
    return confusion


def test_pictures_of_ten_times_the_classes_take_little_longer(tmp_path):
    def draw(classes: int) -> None:
        names = [f"class {number}" for number in range(classes)]
        draw_confusion(confused(classes), names, tmp_path / "confusion.png")
        draw_labels([ClassScore(0.5, 0.5, 0.5, 3, 3)] * classes, names, tmp_path / "labels.png")

    assert seconds(lambda: draw(200)) < 3 * seconds(lambda: draw(20))


def test_intervals_of_many_classes_take_no_longer_than_their_cells():
    few, many = confused(40), confused(800)
    cells = (many > 0).sum() / (few > 0).sum()
    assert seconds(lambda: macro_intervals(many)) < 6 * cells * seconds(lambda: macro_intervals(few))


def test_targets_share_their_resamples():
    rng = np.random.default_rng(0)
    truth, answers = rng.standard_normal((2, SAMPLES, 80))
    one = seconds(lambda: target_intervals(truth[:, :1], answers[:, :1]))
    assert seconds(lambda: target_intervals(truth, answers)) < 30 * one
    assert target_intervals(truth, answers)[7] == target_intervals(truth[:, 7:8], answers[:, 7:8])[0]


def test_a_confusion_of_many_classes_lists_the_cells_that_have_samples():
    rng = np.random.default_rng(0)
    classes, samples = 300, 500
    truth, outputs = rng.integers(0, classes, samples), rng.standard_normal((samples, classes)).astype(np.float32)
    names = [str(number) for number in range(classes)]
    scores = tasks.task("classification").scores(torch.from_numpy(outputs), torch.from_numpy(truth), names, [], 1.0)
    entry = Evaluation.model_validate({"confusion": scores.parts["confusion"]}).confusion
    counts = np.zeros((classes, classes), np.int64)
    for row, column, count in entry.cells:
        counts[row, column] = count
    expected = np.zeros((classes, classes), np.int64)
    np.add.at(expected, (truth, outputs.argmax(1)), 1)
    assert np.array_equal(counts, expected) and entry.counts == [] and len(entry.cells) <= samples


def test_the_macro_f1_of_many_classes_is_compared_in_the_time_of_its_samples():
    rng = np.random.default_rng(0)

    def drawn(classes: int) -> list[Predictions]:
        truth = rng.integers(0, classes, SAMPLES)
        return [Predictions(rng.standard_normal((SAMPLES, classes)), truth, 1.0) for _ in range(2)]

    task, few, many = tasks.task("classification"), drawn(10), drawn(200)
    assert seconds(lambda: task.pair(*many)) < 20 * seconds(lambda: task.pair(*few))
    (change,) = [row for row in task.pair(*many).differences if row.measure == "macro F1"]
    assert change.difference_95[0] < change.difference < change.difference_95[1]
