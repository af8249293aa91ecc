"""The file of an evaluation keeps its keys, and files of earlier versions can be read."""

import json

import numpy as np
import pytest
import torch

from tests.toy import toy_numbers
from torchmill.components import tasks
from torchmill.components.data.samples import read_test
from torchmill.components.evaluation.evaluate import judge
from torchmill.components.evaluation.evaluation import Evaluation


@pytest.mark.parametrize("task", tasks.names())
def test_a_file_is_read_and_written_without_any_change(tmp_path, task):
    data = toy_numbers(tmp_path, task=task)
    outputs = torch.from_numpy(np.random.default_rng(0).normal(size=(data.test_size, 3)).astype(np.float32))
    ref = judge(lambda samples: outputs[: len(samples)], read_test(data), data, tmp_path)
    evaluation = Evaluation.read(ref.report.path)
    assert (evaluation.measure, evaluation.measures[data.measure]) == (data.measure, ref.score)
    assert evaluation.intervals[data.measure] == (ref.score_low, ref.score_high)
    assert bool(evaluation.targets) != bool(evaluation.classes)
    again = tmp_path / "again.json"
    evaluation.write(again)
    assert json.loads(again.read_text()) == json.loads(ref.report.path.read_text())


def test_a_file_of_an_earlier_version_is_read(tmp_path):
    group = {
        "by": "class",
        "name": "a",
        "samples": 9,
        "errors": 1,
        "rate": 0.1,
        "rate_95": [0, 0.4],
        "stands_out": True,
    }
    old = {"samples": 9, "measure": "accuracy", "accuracy": 0.5, "accuracy_95": [0.2, 0.8], "loss": 1.0, "more": {}}
    for key in ("error_groups", "error_slices"):
        (tmp_path / "evaluation.json").write_text(json.dumps({**old, key: [group]}))
        evaluation = Evaluation.read(tmp_path / "evaluation.json")
        assert evaluation.error_slices[0].name == "a" and evaluation.measures == {"accuracy": 0.5}
        assert evaluation.mistakes == () and evaluation.saliency.notes == []
