import hashlib
import json

import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss, precision_recall_fscore_support
from torch import nn

from components.config import RunConfig
from components.data.batches import LabelledImages
from components.evaluation.evaluate import evaluate, predict
from components.evaluation.metrics import wilson_interval

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
        logits = unsure.double().eval()((toy_test.pixels.double() / 255 - mean) / std)
    truth, answers = toy_test.labels.numpy(), logits.argmax(1).numpy()
    assert 0.3 < accuracy_score(truth, answers) < 0.99  # or the test would see nothing
    assert report["accuracy"] == ref.accuracy == accuracy_score(truth, answers)
    assert report["macro_f1"] == ref.macro_f1 == pytest.approx(f1_score(truth, answers, average="macro"))
    assert report["loss"] == ref.loss == pytest.approx(log_loss(truth, logits.softmax(1).numpy()), rel=1e-4)
    assert report["samples"] == ref.samples == len(truth)
    right = int((truth == answers).sum())
    assert report["accuracy_95"] == [ref.accuracy_low, ref.accuracy_high] == list(wilson_interval(right, len(truth)))
    assert report["confusion"]["counts"] == confusion_matrix(truth, answers).tolist()
    scores = precision_recall_fscore_support(truth, answers, zero_division=0)
    for at, (name, score) in enumerate(report["classes"].items()):
        assert name == toy.classes[at]
        assert list(score.values()) == pytest.approx([column[at] for column in scores])


def test_what_is_referred_to_is_what_was_written(trained, toy, toy_test, tmp_path):
    ref = evaluate(trained, toy_test, toy, CPU, 64, tmp_path)
    for file, name in ((ref.report, "evaluation.json"), (ref.picture, "confusion.png")):
        assert file.path == tmp_path / name
        assert file.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_batch_size_does_not_decide_the_result(trained, toy, toy_test, tmp_path):
    refs = [evaluate(trained, toy_test, toy, CPU, size, tmp_path) for size in (1, 50, 1000)]
    assert len({ref.accuracy for ref in refs}) == 1
    assert [ref.loss for ref in refs] == pytest.approx([refs[0].loss] * 3, rel=1e-4)


def test_a_network_in_training_mode_is_evaluated_in_evaluation_mode(toy, toy_test, tmp_path):
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)).train()
    first, second = (evaluate(network, toy_test, toy, CPU, 64, tmp_path) for _ in range(2))
    assert first.loss == second.loss


def test_a_class_without_samples_in_the_test_split_does_not_matter(trained, toy, toy_test, tmp_path):
    kept = toy_test.labels != 3
    ref = evaluate(trained, LabelledImages(toy_test.pixels[kept], toy_test.labels[kept]), toy, CPU, 64, tmp_path)
    assert json.loads(ref.report.path.read_text())["classes"]["bar 3"]["support"] == 0


def test_predictions_keep_the_order_and_carry_no_gradient(toy_test):
    class Mean(nn.Module):
        def forward(self, pixels):
            return pixels.float().mean((1, 2, 3))[:, None]

    logits = predict(Mean(), toy_test, 7)
    assert torch.equal(logits[:, 0], toy_test.pixels.float().mean((1, 2, 3)))
    assert not predict(nn.Sequential(Mean(), nn.Linear(1, 1)), toy_test, 7).requires_grad


def test_the_words_for_people_are_the_numbers(trained, toy, toy_test, tmp_path):
    ref = evaluate(trained, toy_test, toy, CPU, RunConfig().evaluate.batch_size, tmp_path)
    assert ref.words() == f"{ref.accuracy:.2%} (95 %: {ref.accuracy_low:.2%} to {ref.accuracy_high:.2%}) of 203"
    assert ref.metrics()["test_accuracy"] == ref.accuracy
