"""Promotion of models for tasks over named fields, by a paired bootstrap."""

import json

import numpy as np
import pytest
import torch

from tests.toy_fields import own_data
from torchmill.components.data.field_samples import read_fields
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.field_champion import compare_field_models
from torchmill.components.evaluation.comparison.paired import pair_statistics
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.field_export import export_fields
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.build import build

MORE = """
def measured():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)).astype(np.float32)
    return {"x": x, "y": x.sum(1)}

class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.line = nn.Linear(3, 1)
    def forward(self, x):
        return self.line(x)[:, 0]

class Unmeasured:
    def loss(self, network, batch):
        return (network(batch) - batch["y"]).square().mean()
    def predict(self, network, inputs):
        return {"y": network(inputs)}
    def measure(self, answer, batch):
        return {"size": answer["y"].abs()}

class Errors:
    main_measure, better = "error", "lower"
    def loss(self, network, batch):
        return (network(batch) - batch["y"]).square().mean()
    def predict(self, network, inputs):
        return {"y": network(inputs)}
    def measure(self, answer, batch):
        return {"error": (answer["y"] - batch["y"]).abs()}
"""


@pytest.fixture
def models(tmp_path):
    """ONNX files of a good and of a bad network."""
    data = own_data(tmp_path, "measured", "Errors", MORE)
    files = {}
    for name, slope in (("good", 1.0), ("bad", 0.8)):
        network = build(f"{tmp_path}/own.py:Line", {}, data)
        scale = torch.tensor(data.field_refs[0].std)
        with torch.no_grad():
            network.line.weight.copy_(slope * scale)
            network.line.bias.copy_(torch.tensor([sum(data.field_refs[0].mean)]))
        (tmp_path / name).mkdir()
        test = read_fields(data, "test")
        files[name] = export_fields(network, data, test, ExportConfig(batch_sizes=(8,)), {}, tmp_path / name).onnx.path
    return data, files


def test_a_lower_error_is_promoted_and_a_higher_one_is_not(models):
    data, files = models
    better = compare_field_models(files["good"], files["bad"], data, PromoteConfig())
    worse = compare_field_models(files["bad"], files["good"], data, PromoteConfig())
    assert better.outcome == "promoted" and better.comparison and better.comparison.challenger_score < 1e-5
    assert worse.outcome == "kept" and "its score is higher" in worse.reason
    assert worse.comparison and worse.comparison.advantage > 0 and worse.comparison.p_value < 0.01
    json.loads(better.as_json())


def test_samples_that_the_champion_knows_are_left_out(models):
    data, files = models
    digests = np.load(data.folder / "test_digests.npy")
    verdict = compare_field_models(files["good"], files["bad"], data, PromoteConfig(), trained_on=digests[:10])
    assert verdict.comparison and verdict.comparison.left_out == 10
    assert verdict.comparison.samples == len(digests) - 10
    verdict = compare_field_models(files["good"], files["bad"], data, PromoteConfig(), trained_on=digests)
    assert verdict.outcome == "kept" and "none is left" in verdict.reason


def test_a_champion_for_other_fields_is_kept(models):
    data, files = models
    fields = tuple(field.model_copy(update={"name": "z"}) if field.name == "x" else field for field in data.field_refs)
    verdict = compare_field_models(
        files["good"], files["bad"], data.model_copy(update={"field_refs": fields}), PromoteConfig()
    )
    assert verdict.outcome == "kept" and "takes x (values, float32 3), which this data lacks" in verdict.reason


def test_two_networks_are_compared_by_their_statistics(models):
    data, _ = models
    rng = np.random.default_rng(0)
    first = {"error": rng.exponential(size=300)}
    second = {"error": first["error"] * 0.9}
    pairing = pair_statistics(first, second, FieldTask.open(data))
    (difference,) = pairing.differences
    assert difference.verdict == "better" and difference.difference == pytest.approx(-0.1 * first["error"].mean())
    with pytest.raises(UserError, match="tested on other samples"):
        pair_statistics(first, {"error": first["error"][:5]}, FieldTask.open(data))


def test_a_task_without_a_main_measure_promotes_nothing_by_itself(models):
    data, files = models
    goal = data.goal.model_copy(update={"reference": data.goal.reference.replace("Errors", "Unmeasured")})
    unmeasured = data.model_copy(update={"goal": goal})
    verdict = compare_field_models(files["good"], files["bad"], unmeasured, PromoteConfig())
    assert verdict.outcome == "kept" and "names no main_measure" in verdict.reason
