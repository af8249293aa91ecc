"""Tasks over named fields: the members of a user's class, and what follows from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_fields import own_data
from torchmill.components.data.field_samples import read_fields
from torchmill.components.doctor.field_check import check_fields
from torchmill.components.errors import UserError
from torchmill.components.evaluation.field_evaluation import STATISTICS, evaluate_fields
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.field_tasks.statistics import SampleStatistics, difference_interval, read_statistics
from torchmill.components.initialization.build import build, initialize
from torchmill.components.initialization.config import InitializeConfig, ModelConfig
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.runs.step_cache import is_intact

BAD = """
class NoPredict:
    def loss(self, network, batch):
        return network(batch)[0].sum()
    def measure(self, answer, batch):
        return {}

class LossOfRows(Distance):
    def loss(self, network, batch):
        return network(batch)[0].sum(1)

class MeasuresOnce(Distance):
    def measure(self, answer, batch):
        return {"accuracy": answer["distance"].mean()[None]}

class Fails(Distance):
    def loss(self, network, batch):
        return batch["sam"].float().mean()

class OtherMeasure(Distance):
    main_measure = "acuracy"

class Infinite(Distance):
    def loss(self, network, batch):
        return (0 * network(batch)[0].sum()).log()

class Twice(Distance):
    phases = {"a": {"parameters": "body.*", "los": "loss"}}

class Sideways(Distance):
    better = "up"
"""


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("NoPredict", "has no method predict"),
        ("LossOfRows", "returns (4,); expected one number. Take the mean over samples."),
        ("MeasuresOnce", "returns 'accuracy' of (1,) for 4 samples; expected (4, …)"),
        ("Fails", "the batch has no field 'sam': it has left, right, same"),
        ("OtherMeasure", "no measure 'acuracy', its main_measure. Did you mean accuracy?"),
        ("Infinite", "is -inf for the first batch"),
        ("Twice", "phase a has 'los'. Did you mean loss?"),
        ("Sideways", 'better = \'up\', not "higher" or "lower"'),
    ],
)
def test_a_wrong_member_is_told_before_the_training(tmp_path, task, words):
    with pytest.raises(UserError) as error:
        data = own_data(tmp_path, "pairs", task, BAD)
        initialize(ModelConfig(name=f"{tmp_path}/own.py:Both"), InitializeConfig(), data, 0)
    assert words in str(error.value)


def test_an_exception_of_the_users_names_their_line(tmp_path):
    data = own_data(tmp_path, "pairs", "Fails", BAD)
    with pytest.raises(UserError, match=r"loss of the task .*Fails fails: KeyError.*own.py line \d+"):
        initialize(ModelConfig(name=f"{tmp_path}/own.py:Both"), InitializeConfig(), data, 0)


def evaluated(folder: Path, seed: int):
    folder.mkdir()
    data = own_data(folder, "pairs", "Distance")
    torch.manual_seed(seed)
    network = build(f"{folder}/own.py:Both", {}, data).eval()
    scores = evaluate_fields(network, read_fields(data, "test"), data, torch.device("cpu"), 7, folder)
    return data, network, scores


def test_measures_intervals_and_pairs_follow_from_per_sample_statistics(tmp_path):
    data, network, scores = evaluated(tmp_path / "a", 0)
    model, test = FieldsModel.of(network, data), read_fields(data, "test")
    batch = model.prepared(test.take(torch.arange(len(test))))
    with torch.no_grad():
        left, right = model(batch)
    accuracy = (((left - right).square().mean(1) < 1) == (batch["same"] == 1)).double().mean().item()
    assert scores.measure == "accuracy" and scores.score == pytest.approx(accuracy)
    assert scores.score_low <= accuracy <= scores.score_high
    arrays = read_statistics(tmp_path / "a" / STATISTICS)
    assert arrays["accuracy"].shape == (len(test),)
    *_, other = evaluated(tmp_path / "b", 1)
    others = read_statistics(tmp_path / "b" / STATISTICS)
    change, (low, high) = difference_interval(arrays, others, FieldTask.open(data).summarized, "accuracy")
    assert change == pytest.approx(other.score - scores.score) and low <= change <= high


def test_a_ratio_of_sums_has_an_interval_that_holds_it(tmp_path):
    rng = np.random.default_rng(0)
    tokens = torch.from_numpy(rng.integers(1, 50, 400)).double()
    right = (0.7 * tokens).round()
    statistics = SampleStatistics(lambda means: {"accuracy": float(means["right"] / means["tokens"])})
    for start in range(0, 400, 64):
        statistics.add({"right": right[start : start + 64], "tokens": tokens[start : start + 64]})
    value = statistics.measures()["accuracy"]
    assert value == pytest.approx(float(right.sum() / tokens.sum()))
    low, high = statistics.intervals()["accuracy"]
    assert low < value < high and high - low < 0.02
    blocks = np.repeat(np.arange(40), 10)
    low, high = statistics.intervals(blocks)["accuracy"]
    assert low < value < high


def test_many_samples_are_summed_into_blocks_before_they_are_drawn():
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.normal(size=30_000))
    statistics = SampleStatistics(lambda means: {"mean": float(means["x"])})
    statistics.add({"x": values})
    low, high = statistics.intervals()["mean"]
    error = values.std().item() / 30_000**0.5
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.3 * error)


DOCTOR = """
class Peeking(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.spare = nn.Linear(6, 4), nn.Linear(2, 2)

    def forward(self, left, right):
        return self.body(left - left.mean(0)), self.body(right)

class Random(Both):
    def forward(self, right, left):
        return self.body(left) + torch.randn(len(left), 4), self.body(right)
"""


@pytest.mark.parametrize(
    ("network", "verdicts"),
    [
        ("Both", {}),
        ("Peeking", {"batch independence": "fail", "gradients": "warn"}),
        ("Random", {"determinism": "fail", "batch independence": "fail"}),
    ],
)
def test_the_doctor_finds_what_is_wrong(tmp_path, network, verdicts):
    data = own_data(tmp_path, "pairs", "Distance", DOCTOR)
    made = build(f"{tmp_path}/own.py:{network}", {}, data)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    report = check_fields(made, read_fields(data, "train"), data, "quick", lambda _: None)
    assert {verdict.check: verdict.verdict for verdict in report.verdicts if verdict.verdict != "pass"} == verdicts
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


PADDED = """
class Backward(nn.Module):
    def __init__(self, num_embeddings, num_classes):
        super().__init__()
        self.embedding = nn.Embedding(num_embeddings, 8)
        self.body, self.head = nn.LSTM(8, 8, batch_first=True, bidirectional=True), nn.Linear(16, num_classes)

    def forward(self, tokens):
        return self.head(self.body(self.embedding(tokens))[0])

class Onward(Backward):
    def __init__(self, num_embeddings, num_classes):
        super().__init__(num_embeddings, num_classes)
        self.body, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, num_classes)
"""


@pytest.mark.parametrize(("network", "verdict"), [("Backward", "warn"), ("Onward", "pass"), ("Tagger", "pass")])
def test_the_doctor_finds_answers_that_depend_on_padding(tmp_path, network, verdict):
    data = own_data(tmp_path, "ragged", "token_labels", PADDED)
    made = build(f"{tmp_path}/own.py:{network}", {}, data)
    report = check_fields(made, read_fields(data, "train"), data, "quick", lambda _: None)
    (padding,) = (each for each in report.verdicts if each.check == "padding")
    assert padding.verdict == verdict and ("logits" in padding.evidence) == (verdict == "warn")


def test_data_of_any_task_is_found_in_the_cache_again(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHMILL_DATA", str(tmp_path / "cache"))
    data = own_data(tmp_path, "pairs", "Distance")
    assert is_intact(data)
    with (data.folder / "train_left.npy").open("ab") as file:
        file.write(b"more")
    assert not is_intact(data)
