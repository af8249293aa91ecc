"""A registered model answers a folder of images: in the terminal, as a flow, and by the clock."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.flows.conftest import Finished, Place, use_prewarm

pytestmark = pytest.mark.services


def pictures(place: Place, data: Path, count: int = 100) -> np.ndarray:
    """Write the first test images of digits as files; gives their labels."""
    images, labels = (np.load(data / "digits" / f"test_{what}.npy") for what in ("inputs", "labels"))
    (place.folder / "photos").mkdir()
    for number, image in enumerate(images[:count]):
        Image.fromarray(image[0]).save(place.folder / "photos" / f"{number}.png")
    return labels[:count]


def answers(file: Path) -> list[str]:
    with file.open(newline="") as table:
        return [row["label"] for row in csv.DictReader(table)]


def test_the_champion_answers_as_its_evaluation_says(
    copied: Place, finished: Finished, data: Path, prewarm_without_server: str
):
    use_prewarm(copied, prewarm_without_server)
    truth = pictures(copied, data)
    done = copied.torchmill("predict", "champion", "photos", "--output", "told.csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "told.csv\n"
    told = np.array(list(map(int, answers(copied.folder / "told.csv"))))
    assert (told == truth).mean() > finished.result["metrics"]["test_accuracy_low"] - 0.03
    (note,) = copied.runs.glob(f"artifacts/digits/{finished.result['run_id']}/artifacts/drift/*.json")
    assert json.loads(note.read_text())["samples"] == 100

    code = "from torchmill.flows.predict import predict; print(predict('digits-simple_cnn@1', ['photos'], 'flow.csv'))"
    flow = copied.python(code)
    assert flow.returncode == 0, flow.stderr
    assert answers(copied.folder / "flow.csv") == answers(copied.folder / "told.csv")
    copied.wait_until_quiet()
    assert copied.prefect("SELECT state_name FROM flow_run WHERE name != 'first one'") == [("Completed",)]


def test_mistakes_are_told_in_words_and_leave_what_was_there(shared: Place):
    (shared.folder / "photos").mkdir()
    (shared.folder / "told.csv").write_text("precious")
    (shared.folder / "model.onnx").write_text("no model")
    for words, said in (
        (("champion", "photos"), "There is no champion"),
        (("model.onnx", "photos"), "model.onnx is not an ONNX file"),
        (("modell.onnx", "photos"), "Did you mean model.onnx"),
        (("digits", "photos"), "no registered model 'digits'"),
    ):
        done = shared.torchmill("predict", *words, "--output", "told.csv")
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert (shared.folder / "told.csv").read_text() == "precious"


def test_a_prediction_is_scheduled_by_its_own_flow(shared: Place):
    command = ("schedule", "--cron", "0 3 * * *", "--predict", "champion", "--inputs", "photos", "--output", "told.csv")
    done = shared.torchmill(*command, "--name", "nightly answers")
    assert done.returncode == 0 and "Scheduled  predict/nightly answers" in done.stdout, done.stderr
    assert "nightly answers" in shared.torchmill("schedule", "--list").stdout
    assert "predict/nightly answers" in shared.torchmill("schedule", "--remove", "nightly answers").stdout
    refused = shared.torchmill("schedule", "--cron", "0 3 * * *", "--predict", "champion")
    assert refused.returncode == 2 and "--inputs and --output" in refused.stderr
