"""The worst test samples of a task over named fields."""

import json

import numpy as np
import torch

from tests.components.tasks.trials import Trial
from tests.components.training.test_field_training import MORE
from tests.toy_fields import own_file
from torchmill.components.evaluation.analysis.worst_samples import worst_rows
from torchmill.components.field_tasks.field_task import FieldTask


class Errors:
    main_measure, better = "error", "lower"

    def loss(self, network, batch):
        raise NotImplementedError

    def predict(self, network, inputs):
        raise NotImplementedError

    def measure(self, answer, batch):
        raise NotImplementedError

    def summarize(self, means):
        return {"error": means["sum"] / means["count"]}


def test_the_worst_come_first_and_the_best_is_not_among_them():
    sums, counts = np.array([3.0, 8.0, 0.0, 5.0]), np.array([1.0, 2.0, 0.0, 5.0])
    task = FieldTask("own.py:Errors", Errors())
    assert worst_rows(task, {"sum": sums, "count": counts}) == {1: 4.0, 0: 3.0}  # 0 / 0 is no number, and 1 the best
    assert worst_rows(task, {"sum": counts + 1, "count": counts + 1}) == {}


def test_an_evaluation_draws_them_by_the_tasks_own_code(tmp_path):
    file = own_file(tmp_path, MORE)
    trial = Trial.of(tmp_path, f"{file}:scans", "segmentation", "unet")
    trial.train(3)
    report = trial.evaluate()
    folder = trial.folder / "evaluation"
    values = [entry["value"] for entry in report["worst"]]
    assert values == sorted(values) and values[0] < report["iou"]
    assert "worst_masks.png" in report["pictures"] and (folder / "worst_masks.png").is_file()
    with np.load(folder / "statistics.npz") as arrays:
        row = report["worst"][0]["sample"]
        alone = trial.task.summarized({name: torch.from_numpy(arrays[name][row]).double() for name in arrays.files})
    assert json.dumps(round(alone["iou"], 5)) == json.dumps(round(values[0], 5))
