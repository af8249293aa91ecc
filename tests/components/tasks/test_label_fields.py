"""Classes, labels and numbers as targets of named fields: recognized, learned, measured and exported."""

import logging

import numpy as np
import pytest
import torch

from tests.components.tasks.trials import Trial
from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.fetch import fetch
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.tasks import field_tasks, names
from torchmill.components.tasks.classification import Classification
from torchmill.components.tasks.multilabel import Multilabel
from torchmill.components.tasks.regression import Regression

OWN = """
import numpy as np
import torch
from torch import nn

rng = np.random.default_rng(0)
first, second = rng.normal(size=(2, 600, 4)).astype("float32")
sums = first.sum(1) + second.sum(1)

def classes():
    label = [["low", "middle", "high"][place] for place in np.digitize(sums, [-1, 1])]
    return {"first": first, "second": 3 * second, "label": label}

def labels():
    both = np.stack([sums > 0, first[:, 0] > 0, second[:, 0] > 0], 1).astype(int)
    return {"train": {"first": first, "second": second, "labels": both}, "names": {"labels": ["sum", "left", "right"]}}

def numbers():
    return {"first": first, "second": second, "target": 100 + 7 * sums}

def fields():
    return {"first": first, "second": second, "target": 5 + np.einsum("ni,nj->nij", first, second)}

class Both(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, num_classes))

    def forward(self, second, first):
        return self.layers(torch.cat([first, second], 1))

class Grid(Both):
    def forward(self, second, first):
        return torch.einsum("ni,nj->nij", first, second) + super().forward(second, first).unflatten(1, (4, 4))
"""


@pytest.mark.parametrize(
    ("function", "task", "network", "output", "shape"),
    [
        ("classes", "classification", "Both", "index", ()),
        ("labels", "multilabel", "Both", "labels", (3,)),
        ("numbers", "regression", "Both", "values", (1,)),
        ("fields", "regression", "Grid", "values", (4, 4)),
    ],
)
def test_two_inputs_and_a_label_need_no_name_of_a_task(tmp_path, caplog, function, task, network, output, shape):
    (tmp_path / "own.py").write_text(OWN)
    with caplog.at_level(logging.INFO, logger="torchmill"):
        trial = Trial.of(tmp_path, f"{tmp_path}/own.py:{function}", "auto", f"{tmp_path}/own.py:{network}")
    assert trial.data.goal and trial.data.goal.reference == task
    assert f"task  {task}, since the target of" in caplog.text
    trial.train(150, lr=1e-2)
    report = trial.evaluate()
    assert report[report["measure"]] > 0.9
    low, high = report[f"{report['measure']}_95"]
    assert low < report[report["measure"]] < high
    _, answers = trial.export()
    assert answers[output].shape == (8, *shape)


def target(**more) -> dict[str, FieldRef]:
    common = {"name": "y", "file": "y", "shape": (), "dtype": "int64", "is_target": True}
    return {
        "x": FieldRef(name="x", file="x", kind="values", shape=(2,), dtype="float32"),
        "y": FieldRef(**common | more),
    }


def batch_of(truth: torch.Tensor) -> Batch:
    return Batch.of({"y": truth})


def test_measures_of_classes_are_scikit_learns():
    from sklearn.metrics import accuracy_score, f1_score, log_loss

    task = Classification(target(kind="ids", size=3, names=("a", "b", "c")))
    logits, truth = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double(), torch.arange(200) % 3
    answer = {"logits": logits, "index": logits.argmax(1)}
    statistics = task.measure(answer, batch_of(truth))
    measures = task.summarize({name: values.double().mean(0) for name, values in statistics.items()})
    index = answer["index"].numpy()
    assert measures["accuracy"] == pytest.approx(accuracy_score(truth, index), abs=1e-12)
    assert measures["macro_f1"] == pytest.approx(f1_score(truth, index, average="macro"), abs=1e-12)
    assert measures["b_f1"] == pytest.approx(f1_score(truth, index, labels=[1], average=None)[0], abs=1e-12)
    assert measures["cross_entropy"] == pytest.approx(log_loss(truth, logits.softmax(1)), abs=1e-12)


def test_measures_of_labels_are_scikit_learns():
    from sklearn.metrics import accuracy_score, f1_score

    task = Multilabel(target(kind="ids", size=2, shape=(4,)))
    rng = torch.Generator().manual_seed(0)
    logits, truth = torch.randn(200, 4, generator=rng).double(), torch.randint(2, (200, 4), generator=rng)
    labels = (logits > 0).long()
    statistics = task.measure({"logits": logits, "labels": labels}, batch_of(truth))
    measures = task.summarize({name: values.double().mean(0) for name, values in statistics.items()})
    assert measures["exact_match"] == pytest.approx(accuracy_score(truth, labels), abs=1e-12)
    assert measures["label_accuracy"] == pytest.approx((truth == labels).double().mean().item(), abs=1e-12)
    assert measures["macro_f1"] == pytest.approx(f1_score(truth, labels, average="macro"), abs=1e-12)


def test_measures_of_numbers_are_scikit_learns_far_from_zero():
    from sklearn.metrics import mean_absolute_error, r2_score

    rng = np.random.default_rng(0)
    truth = torch.from_numpy(1e4 + rng.normal(size=(300, 2)) * [1, 50])
    values = truth + torch.from_numpy(rng.normal(size=(300, 2)))
    mean, std = (tuple(moment.tolist()) for moment in (truth.mean(0), truth.std(0)))
    task = Regression(target(kind="values", dtype="float32", shape=(2,), mean=mean, std=std))
    statistics = task.measure({"values": values}, batch_of(truth))
    measures = task.summarize({name: part.mean(0) for name, part in statistics.items()})
    assert measures["r2"] == pytest.approx(r2_score(truth, values), abs=1e-9)
    assert measures["mae"] == pytest.approx(mean_absolute_error(truth, values), rel=1e-9)
    assert measures["rmse"] == pytest.approx((values - truth).square().mean().sqrt().item(), rel=1e-9)


def test_a_task_that_does_not_fit_is_refused_with_the_fields(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    data = fetch(f"{tmp_path}/own.py:numbers", tmp_path / "cache")
    with pytest.raises(UserError, match=r"Classification needs inputs and one target.*first \(values.*'label'"):
        for_task(data, TaskConfig(name="classification"))


def test_labels_of_another_width_are_told(tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("nn.Linear(32, num_classes)", "nn.Linear(32, 5)"))
    with pytest.raises(UserError, match=r"gives \(\d+, 5\); expected logits, \(N, 3\)"):
        Trial.of(tmp_path, f"{tmp_path}/own.py:classes", "auto", f"{tmp_path}/own.py:Both")


def test_every_task_of_labels_is_one_of_named_fields_too():
    assert set(names()) <= set(field_tasks())
