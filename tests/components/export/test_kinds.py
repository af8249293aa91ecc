"""Exported models of tokens, numbers and regression targets give the network's answers."""

import csv
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from tests.slow import slow_but
from tests.toy import made, toy_numbers, toy_tokens
from torchmill.components.data.fetch import fetch, read_vocabulary
from torchmill.components.data.samples import read_test, read_training
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import EXAMPLES, export
from torchmill.components.export.parity import compare
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.initialization.standardized_model import StandardizedModel, standardized
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.predict import predict
from torchmill.components.refs import DataRef

SCALES = (1e-4, 1.0, 1e5)
CONFIG = ExportConfig(batch_sizes=(1, 7, 64))


def told(path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.fixture(scope="module")
def letters(tmp_path_factory) -> DataRef:
    return toy_tokens(tmp_path_factory.mktemp("letters"), train=60)


@pytest.fixture(scope="module")
def targets(tmp_path_factory) -> DataRef:
    return toy_numbers(tmp_path_factory.mktemp("targets"), task="regression", scales=SCALES)


def solved(data: DataRef) -> nn.Module:
    """A network that answers well, without any training."""
    training, _ = read_training(data.with_split(0.2, seed=0))
    network = nn.Linear(data.shape[0], len(data.classes))
    with torch.no_grad():
        network.weight.copy_(torch.linalg.lstsq(standardized(training, data), training.labels).solution.T)
        network.bias.zero_()
    return network


def solved_classes(data: DataRef) -> nn.Module:
    training, _ = read_training(data.with_split(0.2, seed=0))
    network = nn.Linear(data.shape[0], len(data.classes))
    shares = nn.functional.one_hot(training.labels).float()
    with torch.no_grad():
        network.weight.copy_(torch.linalg.lstsq(standardized(training, data), shares - 1 / 3).solution.T)
        network.bias.zero_()
    return network


TOKEN_NETWORKS = {
    "rnn": {"hidden": 8, "embedding": 8},
    "transformer": {"width": 16, "heads": 2, "layers": 1, "feedforward": 16},
}


# torch takes three times as long to export a recurrent network, which the contract of the built-in ones does.
@pytest.mark.parametrize("name", [pytest.param("rnn", marks=pytest.mark.slow), "transformer"])
def test_tokens_are_taken_in_any_batch_and_of_any_length(letters, name, tmp_path):
    network = made(name, letters, **TOKEN_NETWORKS[name])
    ref = export(network, letters, read_test(letters), CONFIG, {}, tmp_path)
    assert ref.agreement == 1
    session = open_session(tmp_path / "model.onnx")
    (taken,), (given, *_) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("tokens", "tensor(int64)", ["batch", "any_length"])
    assert (given.name, given.type, given.shape) == ("logits", "tensor(float)", ["batch", 3])
    model, rng = StandardizedModel.of(network, letters).eval(), np.random.default_rng(0)
    for samples, length in ((1, 1), (1, 12), (2, 1), (3, 7), (33, 12), (5, 2)):
        tokens = rng.integers(1, letters.vocabulary_size, (samples, length))
        tokens[0, length // 2 + 1 :] = 0
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens)).numpy()
        np.testing.assert_allclose(session.run(None, {"tokens": tokens})[0], expected, rtol=1e-3, atol=1e-4)
    with np.load(tmp_path / "example.npz") as example:
        assert example["tokens"].dtype == np.int64 and len(example["tokens"]) == len(example["logits"]) == EXAMPLES
        assert np.array_equal(session.run(None, {"tokens": example["tokens"]})[0], example["logits"])


def test_a_model_of_tokens_holds_its_vocabulary(letters, tmp_path):
    to_onnx(made("transformer", letters, **TOKEN_NETWORKS["transformer"]), letters, {"a": "1"}, tmp_path / "model.onnx")
    described = told(tmp_path / "model.onnx")
    assert json.loads(described["vocabulary"])["tokens"] == list(read_vocabulary(letters).tokens)
    assert described["input"].startswith("int64 token ids (batch, length), padded with 0 at the end")
    assert described["preprocessing"] == "cut after 12 tokens"
    assert json.loads(described["labels"]) == list(letters.classes) and described["a"] == "1"


def test_numbers_are_standardised_in_the_model(tmp_path):
    data = toy_numbers(tmp_path)
    network = solved_classes(data)
    ref = export(network, data, read_test(data), CONFIG, {}, tmp_path)
    assert ref.agreement == 1 and told(tmp_path / "model.onnx")["input"] == "float32 (batch, 6)"
    session, inputs = open_session(tmp_path / "model.onnx"), np.load(data.folder / "test_inputs.npy")
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("features", "tensor(float)", ["batch", 6])
    answers = session.run(None, {"features": inputs})[0].argmax(1)
    assert (answers == np.load(data.folder / "test_labels.npy")).mean() > 0.8


def test_a_table_is_answered_by_the_names_of_its_columns(tmp_path):
    rng, colors = np.random.default_rng(0), ("red", "green", "blue")
    rows = [(int(rng.integers(90)), colors[rng.integers(3)], round(rng.random(), 3)) for _ in range(200)]
    lines = [f"{age},{color},{size},{'old' if age > 40 else 'young'}" for age, color, size in rows]
    (tmp_path / "train.csv").write_text("\n".join(["age,color,size,label", *lines]))
    data = fetch(f"csv:{tmp_path / 'train.csv'}", tmp_path / "cache")
    network = nn.Linear(5, 2)
    to_onnx(network, data, {}, tmp_path / "model.onnx")
    assert told(tmp_path / "model.onnx")["input"] == (
        "numeric: float64 (batch, 2), nan without a value: age, size; "
        "categorical: texts (batch, 1), empty without a value: color"
    )

    moved = [f"{size},{color},{number},{age}" for number, (age, color, size) in enumerate(rows)]
    (tmp_path / "new.csv").write_text("\n".join(["size,color,id,age", *moved]))
    predict(tmp_path / "model.onnx", [tmp_path / "new.csv"], tmp_path / "out.csv")
    ones = [[age, *(color == one for one in sorted(colors)), size] for age, color, size in rows]
    with torch.no_grad():
        expected = StandardizedModel.of(network, data).eval()(torch.tensor(ones, dtype=torch.float32)).softmax(1)
    with (tmp_path / "out.csv").open(newline="") as file:
        given = [[float(row[f"probability of {label}"]) for label in data.classes] for row in csv.DictReader(file)]
    assert np.array(given) == pytest.approx(expected.numpy(), abs=1e-5)


def test_targets_come_in_their_own_units_however_different_these_are(targets, tmp_path):
    network, test = solved(targets), read_test(targets)
    ref = export(network, targets, test, CONFIG, {}, tmp_path)
    parity = json.loads(ref.report.path.read_text())
    assert ref.agreement == 1 and parity["torch_score"] > 0.99
    assert parity["onnx_score"] == pytest.approx(parity["torch_score"])
    session = open_session(tmp_path / "model.onnx")
    (given,) = session.get_outputs()
    assert (given.name, given.type, given.shape) == ("values", "tensor(float)", ["batch", 3])
    inputs, truth = np.load(targets.folder / "test_inputs.npy"), np.load(targets.folder / "test_labels.npy")
    values = session.run(None, {"features": inputs})[0]
    errors = np.abs(values - truth).mean(0) / truth.std(0)
    assert (errors < 0.05).all()
    assert told(tmp_path / "model.onnx")["output"] == "values, float32 (batch, 3) in the targets' own units"
    # What is allowed is counted in deviations: neither does the largest target hide the others, nor drown in rounding.
    assert parity["allowed"] < 1e-3 and parity["largest_logit"] < 10
    with np.load(tmp_path / "example.npz") as example:
        assert np.array_equal(session.run(None, {"features": example["features"]})[0], example["values"])


@pytest.mark.parametrize("target", slow_but((0, 2), range(3)))
def test_one_target_off_by_a_hundredth_of_its_deviation_is_seen(targets, target, tmp_path):
    network, test = solved(targets), read_test(targets)
    to_onnx(network, targets, {}, tmp_path / "model.onnx")
    assert compare(tmp_path / "model.onnx", network, targets, test, (7,), CONFIG.tolerance).passed
    proto = onnx.load(tmp_path / "model.onnx")
    changed = next(one for one in proto.graph.initializer if one.name.endswith("target_offset"))
    values = numpy_helper.to_array(changed).copy()
    values[target] += 0.01 * targets.target_std[target]
    changed.CopyFrom(numpy_helper.from_array(values, changed.name))
    onnx.save(proto, tmp_path / "model.onnx")
    parity = compare(tmp_path / "model.onnx", network, targets, test, (7,), CONFIG.tolerance)
    assert not parity.passed and parity.agreement < 1
    assert f"output {target} of test sample" in parity.complaints[0] and "answers differ" in parity.complaints[-1]


def test_labels_are_yes_above_0(tmp_path):
    data = toy_numbers(tmp_path, task="multilabel")
    network, test = solved(data), read_test(data)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([-0.1, 0, 0.1]))
    ref = export(network, data, test, CONFIG, {}, tmp_path)
    parity = json.loads(ref.report.path.read_text())
    session = open_session(tmp_path / "model.onnx")
    answers = session.run(None, {"features": np.load(data.folder / "test_inputs.npy")})[0] > 0
    assert parity["onnx_score"] == pytest.approx((answers == np.load(data.folder / "test_labels.npy")).mean())
    assert (
        told(tmp_path / "model.onnx")["output"]
        == "logits and probabilities, float32 (batch, 3); labels, bool (batch, 3)"
    )


def test_an_answer_that_turns_is_seen_where_labels_are_many(tmp_path):
    data = toy_numbers(tmp_path, task="multilabel")
    network, test = solved(data), read_test(data)
    to_onnx(network, data, {}, tmp_path / "model.onnx")
    with torch.no_grad():
        network.weight[1] *= -1
    parity = compare(tmp_path / "model.onnx", network, data, test, (64,), CONFIG.tolerance)
    assert not parity.passed and parity.agreement < 0.1
    assert any("answers differ" in complaint for complaint in parity.complaints)
