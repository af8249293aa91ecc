import hashlib
import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    mean_absolute_error,
    precision_recall_fscore_support,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
    top_k_accuracy_score,
)
from torch import nn

from tests.toy import made, toy_numbers, toy_tokens
from torchmill.components.data.samples import Samples, read_test, read_training
from torchmill.components.errors import UserError
from torchmill.components.evaluation.evaluate import evaluate
from torchmill.components.evaluation.predictions import predict
from torchmill.components.initialization.standardized_model import StandardizedModel, standardized
from torchmill.components.metrics.intervals import wilson_interval
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.refs import DataRef
from torchmill.components.wording import percent

CPU = torch.device("cpu")


@pytest.fixture
def unsure(trained) -> nn.Module:
    """A network that is right about many and wrong about some."""
    with torch.no_grad():
        trained.fc2.weight[:4] *= 0.05
    return trained


def test_the_numbers_are_those_of_scikit_learn(unsure, toy, toy_test, tmp_path):
    ref = evaluate(unsure, toy_test, toy, CPU, 64, tmp_path)
    report = json.loads((tmp_path / "evaluation.json").read_text())

    mean, std = torch.tensor(toy.mean).double(), torch.tensor(toy.std).double()
    with torch.no_grad():
        logits = unsure.double().eval()((toy_test.inputs.double() / 255 - mean) / std)
    truth, answers = toy_test.labels.numpy(), logits.argmax(1).numpy()
    assert 0.3 < accuracy_score(truth, answers) < 0.99  # or the test would see nothing
    assert report["accuracy"] == ref.score == accuracy_score(truth, answers)
    assert report["macro_f1"] == ref.others["macro_f1"] == pytest.approx(f1_score(truth, answers, average="macro"))
    assert report["loss"] == ref.loss == pytest.approx(log_loss(truth, logits.softmax(1).numpy()), rel=1e-4)
    assert report["samples"] == ref.samples == len(truth)
    right = int((truth == answers).sum())
    assert report["accuracy_95"] == [ref.score_low, ref.score_high] == list(wilson_interval(right, len(truth)))
    assert report["confusion"]["counts"] == confusion_matrix(truth, answers).tolist()
    scores = precision_recall_fscore_support(truth, answers, zero_division=0)
    for at, (name, score) in enumerate(report["classes"].items()):
        assert name == toy.classes[at]
        assert list(score.values())[:4] == pytest.approx([column[at] for column in scores])


def test_what_is_referred_to_is_what_was_written(evaluated):
    folder = evaluated.report.path.parent
    for file, name in ((evaluated.report, "evaluation.json"), (evaluated.picture, "confusion.png")):
        assert file.path == folder / name
        assert file.sha256 == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert (folder / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_batch_size_does_not_decide_the_result(trained, toy, toy_test, tmp_path):
    refs = [evaluate(trained, toy_test.first(61), toy, CPU, size, tmp_path) for size in (1, 50, 1000)]
    assert len({ref.score for ref in refs}) == 1
    assert [ref.loss for ref in refs] == pytest.approx([refs[0].loss] * 3, rel=1e-4)


def test_a_network_in_training_mode_is_evaluated_in_evaluation_mode(toy, toy_test, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)).train()
    first, second = (evaluate(network, toy_test.first(40), toy, CPU, 64, tmp_path) for _ in range(2))
    assert first.loss == second.loss


def test_a_class_without_samples_in_the_test_split_does_not_matter(trained, toy, toy_test, tmp_path):
    kept = toy_test.labels != 3
    ref = evaluate(trained, Samples(toy_test.inputs[kept], toy_test.labels[kept]), toy, CPU, 64, tmp_path)
    assert json.loads(ref.report.path.read_text())["classes"]["bar 3"]["support"] == 0


def test_predictions_keep_the_order_and_carry_no_gradient(toy_test):
    class Mean(nn.Module):
        def forward(self, pixels):
            return pixels.float().mean((1, 2, 3))[:, None]

    logits = predict(Mean(), toy_test, 7)
    assert torch.equal(logits[:, 0], toy_test.inputs.float().mean((1, 2, 3)))
    assert not predict(nn.Sequential(Mean(), nn.Linear(1, 1)), toy_test, 7).requires_grad


def test_the_words_for_people_are_the_numbers(evaluated):
    ref = evaluated
    assert ref.words() == f"{percent(ref.score)} (95 %: {percent(ref.score_low)} to {percent(ref.score_high)}) of 203"
    assert ref.metrics()["test_accuracy"] == ref.score


def linear(data: DataRef) -> nn.Module:
    """A network that is right about some and wrong about others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Linear(data.shape[0], len(data.classes))
    training, _ = read_training(data.with_split(0.2, seed=0))
    with torch.no_grad():
        solved = torch.linalg.lstsq(standardized(training, data), training.labels.float() - training.labels.mean(0))
        network.weight.copy_(solved.solution.T + 0.1 * network.weight)
        network.bias.zero_()
    return network


def test_labels_are_scored_as_by_scikit_learn(tmp_path):
    data = toy_numbers(tmp_path, task="multilabel")
    test, network = read_test(data), linear(data)
    ref = evaluate(network, test, data, CPU, 50, tmp_path)
    report = json.loads(ref.report.path.read_text())

    with torch.no_grad():
        logits = network(standardized(test, data)).numpy()
    truth, answers = test.labels.numpy().astype(int), (logits > 0).astype(int)
    assert 0.6 < (truth == answers).mean() < 1  # or the test would see nothing
    assert ref.measure == report["measure"] == "label_accuracy"
    assert ref.score == report["label_accuracy"] == pytest.approx((truth == answers).mean())
    assert ref.score_low < ref.score < ref.score_high
    assert report["label_accuracy_95"] == [ref.score_low, ref.score_high]
    assert ref.others.items() <= report.items() and {"exact_match", "micro_f1", "macro_f1"} < set(ref.others)
    assert ref.others["exact_match"] == pytest.approx(accuracy_score(truth, answers))
    for average in ("micro", "macro"):
        assert ref.others[f"{average}_f1"] == pytest.approx(f1_score(truth, answers, average=average))
    chances = 1 / (1 + np.exp(-logits.astype(float)))
    cost = np.mean([log_loss(truth[:, label], chances[:, label]) for label in range(3)])
    assert ref.loss == report["loss"] == pytest.approx(cost, rel=1e-4)
    scores = precision_recall_fscore_support(truth, answers, zero_division=0)
    for at, (name, score) in enumerate(report["classes"].items()):
        assert name == data.classes[at]
        assert list(score.values())[:4] == pytest.approx([column[at] for column in scores])
        assert score["answered"] == answers[:, at].sum()
        for measure in ("precision", "recall"):
            low, high = score[f"{measure}_95"]
            assert 0 <= low <= score[measure] <= high <= 1 and low < high
    assert ref.picture.path.name == "labels.png" and ref.picture.path.read_bytes().startswith(b"\x89PNG")
    assert ref.metrics()["test_label_accuracy"] == ref.score and ref.metrics()["test_exact_match"] < ref.score
    assert ref.words() == f"{percent(ref.score)} (95 %: {percent(ref.score_low)} to {percent(ref.score_high)}) of 121"


@pytest.mark.parametrize("scales", [(1.0,), (1e-3, 1.0, 1e4)])
def test_targets_are_scored_in_their_own_units_as_by_scikit_learn(tmp_path, scales):
    data = toy_numbers(tmp_path, task="regression", outputs=len(scales), scales=scales)
    test, network = read_test(data), linear(data)
    with torch.no_grad():
        network.bias.copy_(torch.linspace(-0.3, 0.3, len(scales)))
    ref = evaluate(network, test, data, CPU, 50, tmp_path)
    report = json.loads(ref.report.path.read_text())

    with torch.no_grad():
        standard = network(standardized(test, data)).double().numpy()
    std, mean = np.array(data.target_std), np.array(data.target_mean)
    truth, answers = test.labels.double().numpy(), standard * std + mean
    assert ref.measure == "r2" and 0.6 < r2_score(truth, answers) < 1
    assert ref.score == report["r2"] == pytest.approx(r2_score(truth, answers), rel=1e-5)
    assert ref.score_low < ref.score < ref.score_high < 1
    assert ref.loss == pytest.approx((((answers - truth) / std) ** 2).mean(), rel=1e-4)
    mae = mean_absolute_error(truth, answers, multioutput="raw_values")
    rmse = root_mean_squared_error(truth, answers, multioutput="raw_values")
    r2 = r2_score(truth, answers, multioutput="raw_values")
    for at, (name, score) in enumerate(report["targets"].items()):
        assert name == data.classes[at]
        assert [score["mae"], score["rmse"], score["r2"]] == pytest.approx([mae[at], rmse[at], r2[at]], rel=1e-3)
    assert set(ref.others) == ({"mae", "rmse"} if len(scales) == 1 else set())
    assert ref.picture.path.name == "targets.png" and ref.picture.path.read_bytes().startswith(b"\x89PNG")
    assert ref.words() == f"{ref.score:.4f} (95 %: {ref.score_low:.4f} to {ref.score_high:.4f}) of 121"
    assert ref.metrics()["test_r2"] == ref.score


def test_the_interval_of_a_score_is_where_the_scores_of_other_samples_lie(tmp_path):
    data = toy_numbers(tmp_path, task="regression", test=3000)
    network = linear(data)
    whole = read_test(data)
    outputs, held = predict(StandardizedModel.of(network, data).eval(), whole, 256), 0
    truth = data.task_object.scores(outputs, whole.labels, data.classes, data.target_std, 1.0).score
    for some, labels in zip(outputs.split(100), whole.labels.split(100), strict=True):
        found = data.task_object.scores(some, labels, data.classes, data.target_std, 1.0)
        held += found.low < truth < found.high
    assert held >= 25  # of 30, where 95 % are meant


def test_a_target_without_spread_in_the_test_split_explains_nothing_and_harms_nothing(tmp_path):
    data = toy_numbers(tmp_path, task="regression")
    test, network = read_test(data), linear(data)
    test.labels[:, 1] = 7
    ref = evaluate(network, test, data, CPU, 50, tmp_path)
    report = json.loads(ref.report.path.read_text())
    assert report["targets"]["regression 1"]["r2"] == 0
    assert math.isfinite(ref.score) and ref.score == pytest.approx(
        sum(score["r2"] for score in report["targets"].values()) / 3
    )
    assert ref.score_low <= ref.score <= ref.score_high


def test_tokens_are_scored_whatever_the_batch_size(tmp_path):
    data = toy_tokens(tmp_path, train=20)
    network = made("transformer", data, width=16, heads=2, layers=1, feedforward=16)
    refs = [evaluate(network, read_test(data), data, CPU, size, tmp_path) for size in (1, 7, 100)]
    assert len({ref.score for ref in refs}) == 1 and 0 < refs[0].score < 1
    assert [ref.loss for ref in refs] == pytest.approx([refs[0].loss] * 3, rel=1e-4)


def test_top_answers_calibration_and_ranking_are_told(unsure, toy, toy_test, tmp_path):
    _, validation = read_training(toy.with_split(0.2, seed=0))
    ref = evaluate(unsure, toy_test, toy, CPU, 64, tmp_path, validation)
    report = json.loads(ref.report.path.read_text())
    logits = predict(StandardizedModel.of(unsure, toy).eval(), toy_test, 64).numpy()
    truth = toy_test.labels.numpy()

    for k in (2, 3, 5):
        assert ref.others[f"top_{k}_accuracy"] == top_k_accuracy_score(truth, logits, k=k)
    assert ref.others["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, logits.argmax(1)))
    chances = torch.from_numpy(logits).softmax(1).numpy()
    assert ref.others["roc_auc"] == pytest.approx(roc_auc_score(truth, chances, multi_class="ovr"), rel=1e-5)
    assert ref.temperature == report["calibration"]["temperature"] != 1
    divided = torch.from_numpy(logits).double().div(ref.temperature).softmax(1).numpy()
    assert ref.others["loss_calibrated"] == pytest.approx(log_loss(truth, divided))
    for name in ("macro_f1", "balanced_accuracy"):
        assert ref.others[f"{name}_low"] < ref.others[name] < ref.others[f"{name}_high"]
        assert report[f"{name}_95"] == [ref.others[f"{name}_low"], ref.others[f"{name}_high"]]
    for name in ("roc_auc", "average_precision", "ece", "ece_calibrated", "loss"):
        low, high = report[f"{name}_95"]
        assert low < (ref.loss if name == "loss" else ref.others[name]) < high, name
    recall = report["classes"]["bar 0"]
    assert recall["recall_95"][0] <= recall["recall"] <= recall["recall_95"][1]
    assert {group["by"] for group in report["error_groups"]} >= {"class", "brightness"}
    assert report["robustness"]["changes"][0]["score"] == ref.score  # of all 203, as they are
    wrong = int((logits.argmax(1) != truth).sum())
    assert len(report["mistakes"]) == min(24, wrong)


def test_all_that_was_written_is_referred_to_and_the_same_each_time(evaluated, trained, toy, toy_test, tmp_path):
    refs = [evaluated, evaluate(trained, toy_test, toy, CPU, 64, tmp_path)]
    digests = [[one.sha256 for one in (ref.report, ref.picture, *ref.pictures, ref.predictions)] for ref in refs]
    assert digests[0] == digests[1]
    named = {one.path.name for one in (refs[0].report, refs[0].picture, *refs[0].pictures, refs[0].predictions)}
    assert named == {path.name for path in evaluated.report.path.parent.iterdir()}


def test_what_the_network_gave_is_kept_for_each_sample(evaluated, toy_test, tmp_path):
    ref = evaluated
    kept = Predictions.read(ref.predictions.path)
    assert np.array_equal(kept.truth, toy_test.labels.numpy()) and kept.temperature == ref.temperature == 1
    assert (kept.outputs.argmax(1) == kept.truth).mean() == ref.score
    (tmp_path / "predictions.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match="holds no predictions"):
        Predictions.read(tmp_path / "predictions.npz")


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_numbers_of_every_task_are_evaluated(tmp_path, task):
    data = toy_numbers(tmp_path, task=task)
    ref = evaluate(linear_or_any(data, task), read_test(data), data, CPU, 50, tmp_path)
    report = json.loads(ref.report.path.read_text())
    assert ref.score_low <= ref.score <= ref.score_high and report["mistakes"]
    if task == "regression":
        (target, *_) = report["targets"].values()
        assert target["mae_95"][0] < target["mae"] < target["mae_95"][1]
        assert len(target["residuals"]["truth"]) == 121
    if task == "multilabel":
        (label, *_) = report["classes"].values()
        assert 0 < label["average_precision"] <= 1 and label["reliability"]


def linear_or_any(data: DataRef, task: str) -> nn.Module:
    return made("mlp", data) if task == "classification" else linear(data)
