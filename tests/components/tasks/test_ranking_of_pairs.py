"""Ranking of pairs: scores of single items, whose order is learnt and measured."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.components.tasks.trials import Trial
from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.errors import UserError
from torchmill.components.tasks.ranking import Ranking

OWN = """
import numpy as np
from torch import nn

def pairs(told=False):
    rng = np.random.default_rng(0)
    items = rng.normal(3, 2, (500, 2, 4)).astype("float32")
    worth = items @ np.array([1, -2, 0.5, 0], "float32")
    order = worth.argsort(1)
    if told:
        return {"one": items[:, 0], "two": items[:, 1], "target": (worth[:, 1] > worth[:, 0]).astype("int64")}
    rows = np.arange(500)
    return {"better": items[rows, order[:, 1]], "worse": items[rows, order[:, 0]]}

def told():
    return pairs(told=True)

class Scorer(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, item):
        return self.layers(item)
"""


@pytest.mark.parametrize("function", ["pairs", "told"])
def test_a_network_learns_the_order_and_its_export_scores_both_items(tmp_path, function):
    (tmp_path / "own.py").write_text(OWN)
    trial = Trial.of(tmp_path, f"{tmp_path}/own.py:{function}", "ranking", f"{tmp_path}/own.py:Scorer")
    trial.train(100, lr=1e-2)
    report = trial.evaluate()
    assert report["pair_accuracy"] > 0.9
    _, answers = trial.export()
    assert answers["scores"].shape == (8, 2)
    assert (answers["preferred"] == answers["scores"].argmax(1)).all()


def item(name: str, **more) -> FieldRef:
    common = {"file": name, "kind": "values", "shape": (2,), "dtype": "float32", "mean": (0.0, 0.0), "std": (1.0, 1.0)}
    return FieldRef(**{"name": name, **common, **more})


def label(**more) -> FieldRef:
    return FieldRef(
        **{"name": "y", "file": "y", "kind": "ids", "shape": (), "dtype": "int64", "is_target": True, "size": 2, **more}
    )


def test_both_items_are_standardized_alike():
    """Better items have other means: by their own, equal items would get different scores."""
    rng = np.random.default_rng(0)
    raw = {"better": rng.normal(5, 3, (1000, 2)), "worse": rng.normal(-1, 1, (1000, 2))}
    fields = {name: item(name, mean=tuple(x.mean(0)), std=tuple(x.std(0))) for name, x in raw.items()}
    task, seen = Ranking(fields), []
    standardized = {name: torch.tensor((x - x.mean(0)) / x.std(0)) for name, x in raw.items()}

    def network(values: torch.Tensor) -> torch.Tensor:
        seen.append(values)
        return values.sum(1)

    task.predict(network, Batch.of(standardized))
    both = np.concatenate([raw["better"], raw["worse"]])
    expected = (both - both.mean(0)) / both.std(0)
    np.testing.assert_allclose(torch.cat(seen).numpy(), expected, atol=1e-9)


def test_loss_and_accuracy_follow_the_target():
    task = Ranking({"one": item("one"), "two": item("two"), "y": label()})
    items = {"one": torch.tensor([[2.0, 0], [1, 0], [1, 0]]), "two": torch.tensor([[1.0, 0], [3, 0], [1, 0]])}
    batch = Batch.of({**items, "y": torch.tensor([0, 0, 1])})
    margins = torch.tensor([1.0, -2, 0])
    torch.testing.assert_close(task.loss(lambda x: x.sum(1), batch), -margins.sigmoid().log().mean())
    statistics = task.measure(task.predict(lambda x: x.sum(1), batch), batch)
    assert statistics["pair_accuracy"].tolist() == [1, 0, 0.5]


def test_pairs_of_pictures_are_drawn_the_higher_score_above(tmp_path):
    moments = {"kind": "image", "shape": (1, 8, 8), "dtype": "uint8", "mean": (100.0,), "std": (50.0,)}
    task = Ranking({"better": item("better", **moments), "worse": item("worse", **moments)})
    raw = {"better": torch.full((3, 1, 8, 8), 40), "worse": torch.full((3, 1, 8, 8), 200)}
    batch = Batch({name: (x - 100) / 50 for name, x in raw.items()}, raw, 3)
    (path,) = task.draw(lambda x: x.mean((1, 2, 3)), batch, tmp_path)
    drawn = np.asarray(Image.open(path).convert("L"))
    assert drawn[drawn.shape[0] // 4, drawn.shape[1] // 6] == 200
    assert drawn[3 * drawn.shape[0] // 4, drawn.shape[1] // 6] == 40


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([item("one"), item("two")], "needs two items of one shape"),
        ([item("better"), item("worse", shape=(3,))], r"worse \(values, float32 3\)"),
        ([item("one"), item("two"), item("three"), label()], "needs two items"),
        ([item("one"), item("two"), label(size=3)], "'y' holds 2; 0 says that one is better, and 1 that two is"),
    ],
)
def test_fields_that_do_not_fit_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        Ranking({field.name: field for field in fields})


def test_outputs_that_are_no_scores_are_told():
    with pytest.raises(UserError, match=r"gives \(3, 2\) for \(3, 2\); expected a score"):
        Ranking({"better": item("better"), "worse": item("worse")}).predict(
            lambda x: x, Batch.of({"better": torch.ones(3, 2), "worse": torch.ones(3, 2)})
        )
