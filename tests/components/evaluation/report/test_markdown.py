import json
from pathlib import Path

import pytest

from torchmill.components.config import RunConfig
from torchmill.components.evaluation.report.markdown import write_report
from torchmill.components.refs import (
    DataRef,
    EvaluationRef,
    ExportRef,
    FileRef,
    FitRef,
    NetworkRef,
    PromotionRef,
    RunRef,
    StepRef,
)
from torchmill.components.training.config import TrainConfig


@pytest.fixture
def written(toy, tmp_path) -> str:
    """The report of a run whose every number is another one."""
    return write(toy, tmp_path, "3")


def write(toy: DataRef, tmp_path: Path, version: str | None, **training: object) -> str:
    evaluation = {"classes": {"cat": {"precision": 0.11, "recall": 0.22, "f1": 0.33, "support": 1234}}}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    parity = {"allowed": 1.5e-4, "onnx_score": 0.9123, "torch_score": 0.9124}
    (tmp_path / "parity.json").write_text(json.dumps(parity))
    file = FileRef.of(tmp_path / "parity.json")
    trained = FitRef(
        network=NetworkRef(reference="simple_cnn", arguments={}, weights=file, parameters=421642),
        weights=file,
        checkpoint=file,
        device="cpu",
        epochs=7,
        best_epoch=4,
        validation_score=0.8765,
        validation_loss=0.4321,
        samples_per_second=9876.0,
        stopped_early=True,
    )
    scores = EvaluationRef(
        score=0.9125,
        score_low=0.9001,
        score_high=0.9234,
        others={"macro_f1": 0.9},
        loss=0.3456,
        samples=10000,
        report=FileRef.of(tmp_path / "evaluation.json"),
        picture=file,
    )
    model = ExportRef(onnx=file, report=file, max_abs_diff=2.5e-6, agreement=0.9999, example=file)
    run = RunRef(run_id="1", name="brave-otter", folder=tmp_path, url="")
    steps = {
        "fetch": StepRef(state="cached", seconds=0.1, key="f0", why="calm-lynx"),
        "fit": StepRef(state="resumed", seconds=12.34, key="f1", why="from epoch 3, step 7"),
        "export": StepRef(state="ran", seconds=5.6, key="e2", why="the trained weights changed"),
    }
    file = FileRef(path=tmp_path / "promotion.json", sha256="0" * 64)
    told = PromotionRef(outcome="kept", reason="its score is lower", champion="2", report=file) if version else None
    config = RunConfig(train=TrainConfig(**training))
    path = write_report(config, trained, scores, model, toy, version, told, steps, run)
    assert path == tmp_path / "report.md"
    return path.read_text(encoding="utf-8")


def test_the_report_says_how_good_the_network_is_and_how_sure_that_is(written):
    assert written.startswith("# brave-otter\n")
    assert "**Test accuracy 91.25 %** (95 % interval 90.01 % to 92.34 %, 10,000 samples)" in written
    assert "simple_cnn on toy, 421,642 parameters" in written


@pytest.mark.parametrize(
    "line",
    [
        "| Training | 7 epochs on cpu, stopped early, 9,876 samples/s |",
        "| Best epoch | 4: validation accuracy 87.65 %, cross-entropy 0.4321 |",
        "| Test cross-entropy | 0.3456 |",
        "| Promotion | kept: its score is lower |",
        "| ONNX model | digits-simple_cnn version 3; 99.99 % of the answers agree, "
        "largest difference 2.5e-06 (allowed 1.5e-04) |",
        "| Accuracy of the ONNX model | 91.23 % in onnxruntime, 91.24 % in torch |",
        "| Time | fetch done before, fit 12.3 s since it was resumed, export 5.6 s |",
        "| cat | 11.00 % | 22.00 % | 33.00 % | 1,234 |",
    ],
)
def test_the_report_says_what_was_done(written, line):
    assert line in written.splitlines()


def test_a_model_that_was_not_to_be_registered_is_told_as_such(toy, tmp_path):
    assert "| ONNX model | not registered; 99.99 % of the answers agree, " in write(toy, tmp_path, None)


def test_every_row_has_the_cells_of_its_table(written):
    tables = [block.splitlines() for block in written.split("\n\n") if block.startswith("|")]
    assert [len({line.count("|") for line in table}) for table in tables] == [1, 1]


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({}, "cross-entropy 0.4321"),
        ({"loss": "focal"}, "loss focal 0.4321"),
        ({"loss_args": {"label_smoothing": 0.1}}, "cross-entropy (label_smoothing 0.1) 0.4321"),
    ],
)
def test_losses_are_told_by_name_since_training_may_have_another_than_the_test(toy, tmp_path, training, words):
    written = write(toy, tmp_path, None, **training)
    assert f"validation accuracy 87.65 %, {words} |" in written
    assert "| Test cross-entropy | 0.3456 |" in written
