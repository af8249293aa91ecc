"""Every file in components/tasks/ is a whole task, and a new one needs nothing but its file."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from tests.toy import toy_numbers
from torchmill.components import tasks
from torchmill.components.data.formats.labels import read_labels
from torchmill.components.data.samples import read_test
from torchmill.components.errors import UserError
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.evaluation.report.summary import summary
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.training.losses import losses_of

SAMPLES, OUTPUTS = 60, 3
NAMES = ("a", "b", "c")
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(params=tasks.names())
def task(request) -> tasks.LabelTask:
    return tasks.task(request.param)


def truth_of(task: tasks.LabelTask) -> np.ndarray:
    """Labels as a data set stores them, of any task: the first form in which the task finds no fault."""
    rng = np.random.default_rng(0)
    forms = (
        rng.permutation(np.arange(SAMPLES) % OUTPUTS),
        rng.integers(0, 2, (SAMPLES, OUTPUTS)).astype(np.uint8),
        rng.normal(size=(SAMPLES, OUTPUTS)).astype(np.float32),
    )
    return next(form for form in forms if not task.faults(form, SAMPLES, OUTPUTS))


@pytest.fixture
def truth(task) -> np.ndarray:
    return truth_of(task)


@pytest.fixture
def outputs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(SAMPLES, OUTPUTS)).astype(np.float32)


def trained_on(task: tasks.LabelTask, truth: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(task.trained_on(truth, task.statistics(truth)))


def test_a_task_has_all_members_and_no_base_class(task):
    members = {name for name in vars(tasks.LabelTask) if not name.startswith("_")} | set(
        tasks.LabelTask.__annotations__
    )
    assert not [name for name in members if not hasattr(task, name)]
    assert type(task).__bases__ == (object,)
    for name in members:
        if inspect.isfunction(member := vars(tasks.LabelTask).get(name)):
            assert list(inspect.signature(getattr(task, name)).parameters) == [
                *list(inspect.signature(member).parameters)[1:]
            ], name


def test_a_task_is_called_as_its_file(task):
    assert task.name in tasks.names() and inspect.getfile(type(task)).endswith(f"{task.name}.py")
    assert tasks.by_measure(task.main_measure).name == task.name


def test_labels_that_it_reads_it_finds_no_fault_in(task, truth):
    assert task.recognizes(truth)
    values, names = task.read_labels({"train": truth, "test": truth[:20]}, "here", NAMES)
    assert names == NAMES and len(values["test"]) == 20
    assert not task.faults(values["train"], SAMPLES, OUTPUTS)
    assert task.faults(truth[:-1], SAMPLES, OUTPUTS) and task.faults(truth.astype(np.int16), SAMPLES, OUTPUTS)
    assert [name for name in tasks.names() if tasks.task(name).recognizes(truth)] == [task.name]
    counts = task.counts(truth, OUTPUTS)
    assert counts is None or counts.shape == (OUTPUTS,)


def test_losses_and_scores_are_finite_and_agree(task, truth, outputs):
    labels = trained_on(task, truth)
    values = torch.from_numpy(outputs).requires_grad_()
    loss, each = task.plain_loss(values, labels), task.plain_losses(values, labels)
    assert loss.shape == () and each.shape == (SAMPLES,) and torch.isfinite(each).all()
    torch.testing.assert_close(loss, each.mean())
    loss.backward()
    assert values.grad is not None and values.grad.abs().sum() > 0
    assert losses_of(task.name)
    total = task.score_sum(values.detach(), labels)
    assert total.shape == () and (total.dtype == torch.int64) == task.counts_right
    assert task.shares(labels, OUTPUTS).shape == (SAMPLES, OUTPUTS)
    assert task.class_weights(labels, OUTPUTS).shape == (OUTPUTS,)


def test_measures_have_a_row_for_each_sample_and_their_summary_is_the_score(task, truth, outputs):
    statistics = task.measure(outputs, truth)
    assert task.main_measure in statistics
    assert {values.shape[0] for values in statistics.values()} == {SAMPLES}
    score = task.score(outputs, truth)
    assert task.summarize(statistics)[task.main_measure] == pytest.approx(score)
    low, high = task.interval(outputs, truth)
    assert low < score < high
    if task.is_share:
        assert task.score_sum(torch.from_numpy(outputs), trained_on(task, truth)).item() / SAMPLES == pytest.approx(
            score
        )


def test_all_scores_name_the_main_measure_first_and_draw_a_picture(task, truth, outputs, tmp_path):
    labels = torch.from_numpy(task.trained_on(truth, None))
    scores = task.scores(torch.from_numpy(outputs), labels, NAMES, task.statistics(truth)[1], 1.0)
    assert scores.score == pytest.approx(task.score(outputs, truth)) and scores.low < scores.score < scores.high
    assert np.isfinite(scores.loss)
    report = json.loads(
        json.dumps({task.main_measure: scores.score, **scores.others, "loss": scores.loss, **scores.parts})
    )
    report[f"{task.main_measure}_95"] = [scores.low, scores.high]
    assert summary(Evaluation.model_validate(report), task.name)[0].value == tasks.shown(
        task.main_measure, scores.score
    )
    next(iter(scores.pictures.values()))(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_two_networks_are_compared_by_the_same_samples(task, truth, outputs):
    good = _outputs_that_are_right(task, truth)
    pairing = task.pair(Predictions(outputs, truth, 1.0), Predictions(good, truth, 1.0))
    assert pairing.samples == SAMPLES and pairing.differences[0].verdict == "better"
    mistakes = task.worst_mistakes(outputs, truth, NAMES, task.statistics(truth)[1], 1.0, 5)
    assert len(mistakes) == 5 and all(0 <= one.sample < SAMPLES and one.truth != one.answer for one in mistakes)
    wrong = task.wrong(good, truth)
    assert wrong is None or not wrong.any()


def _outputs_that_are_right(task: tasks.LabelTask, truth: np.ndarray) -> np.ndarray:
    if task.is_exclusive:
        return 5 * np.eye(OUTPUTS, dtype=np.float32)[truth]
    return truth.astype(np.float32) if task.counts(truth, OUTPUTS) is None else 10 * truth.astype(np.float32) - 5


def test_answers_that_an_allowed_difference_may_turn_are_undecided(task, outputs):
    reference = outputs.astype(np.float64)
    assert len(task.answers(reference)) == SAMPLES
    assert not task.differing(reference, reference, 1e-6).any()
    off = reference + np.random.default_rng(2).uniform(-0.05, 0.05, reference.shape)
    assert (
        task.counts(truth_of(task), OUTPUTS) is None
        or not (task.differing(off, reference, 0.05) & ~task.undecided(reference, 0.05)).any()
    )


def test_the_onnx_outputs_are_those_that_numpy_gives(task, outputs):
    from onnx.reference import ReferenceEvaluator

    assert task.exported([task.onnx_output], task.describe_output(OUTPUTS)) or task.onnx_output == "logits"
    graph = task.postprocessing(NAMES, 1.5)
    assert (graph is not None) == task.has_probabilities
    if graph is not None:
        onnx.checker.check_model(graph)
        probabilities, labels, *index = ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: outputs})
        assert not index or np.array_equal(index[0], outputs.argmax(1))
        np.testing.assert_allclose(probabilities, task.probabilities(outputs, 1.5), rtol=1e-5)
        assert np.asarray(labels).tolist() == task.labels(outputs, NAMES).tolist()
    answers = task.probabilities(outputs, 1.0)
    words = [task.answer_words(answer, NAMES) for answer in answers]
    assert len(task.confidence(answers)) == (SAMPLES if task.has_probabilities else 0)
    assert all(isinstance(word, str) == task.has_probabilities for word in words)


def test_toy_data_of_the_task_is_described_by_it(task, tmp_path):
    data = toy_numbers(tmp_path, task=task.name)
    assert data.task_object is task and data.measure == task.main_measure
    assert data.outputs == f"3 {task.plural}" and len(read_test(data)) == 121


def test_an_unknown_task_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match=r"Unknown task 'regresion'\. Did you mean regression\?"):
        tasks.task("regresion")
    with pytest.raises(ValidationError, match="Did you mean multilabel"):
        toy_numbers(tmp_path).model_validate({**toy_numbers(tmp_path).model_dump(), "task": "multilable"})
    with pytest.raises(UserError, match="labels are whole numbers"):
        read_labels({"train": np.array([[0, 3], [2, 1]])}, "here")


FOURTH = '''
"""Classes in an order."""

from torchmill.components.tasks.classification import LabelClassification


class Ordinal:
    name = "ordinal"
    main_measure = "within_one"

    def __getattr__(self, member):
        return getattr(LabelClassification(), member)

    def recognizes(self, labels):
        return False  # whole numbers are classes unless the user names this task

    def read_labels(self, labels, place, names):
        return {split: values - 100 for split, values in labels.items()}, tuple("low middle high".split())

    def plain_loss(self, outputs, labels):
        return (outputs.softmax(1) @ outputs.new_tensor([0.0, 1, 2]) - labels).square().mean()

    def measure(self, outputs, truth):
        return {"within_one": abs(outputs.argmax(1) - truth) <= 1}

    def summarize(self, statistics):
        return {name: float(values.mean()) for name, values in statistics.items()}
'''

USE_FOURTH = """
import json

import numpy as np
import torch

from torchmill.components import tasks
from torchmill.components.data.formats.labels import read_labels
from torchmill.components.refs import DataRef
from torchmill.components.runs.fingerprint import of_step

labels = read_labels({"train": np.array([100, 101, 102, 102])}, "here", task="ordinal")
data = DataRef(
    name="toy", folder="/", sha256="", source="", task=labels.task, kind="numbers", shape=(2,), classes=labels.classes,
    train_size=4, test_size=4,
)
outputs = np.eye(3, dtype=np.float32)[[0, 0, 0, 2]]
task = data.task_object
print(json.dumps({
    "names": tasks.names(), "task": data.task, "classes": data.classes,
    "loss": task.plain_loss(torch.from_numpy(outputs), torch.from_numpy(labels.values["train"])).item(),
    "summary": task.summarize(task.measure(outputs, labels.values["train"])), "measure": data.measure,
    "shown": tasks.shown("within_one", 0.75), "code": sorted(of_step("fit", {"data": data}).code),
}))
"""


@pytest.mark.services
def test_a_file_is_all_that_a_fourth_task_needs(tmp_path):
    shutil.copytree(REPOSITORY / "src" / "torchmill", tmp_path / "torchmill", ignore=shutil.ignore_patterns("__py*"))
    (tmp_path / "torchmill" / "components" / "tasks" / "ordinal.py").write_text(FOURTH)
    done = subprocess.run(
        [sys.executable, "-c", USE_FOURTH],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["names"] == [*tasks.names()[:2], "ordinal", *tasks.names()[2:]]
    assert (told["task"], told["classes"], told["measure"]) == ("ordinal", ["low", "middle", "high"], "within_one")
    assert (
        np.isfinite(told["loss"])
        and told["summary"] == {"within_one": 0.75}
        and told["shown"] == tasks.shown("accuracy", 0.75)
    )
    files = [name for name in told["code"] if name.startswith("components/tasks/")]
    assert "components/tasks/ordinal.py" in files and "components/tasks/regression.py" not in files
