"""The model card states the results of the run, and its code runs."""

import json
import re
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from torch import nn

from tests.components.training.small_training import CPU
from tests.toy import toy_numbers
from torchmill.components import fields
from torchmill.components.data.fetch import COLUMNS
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.evaluation.evaluate import evaluate
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.export.model_card import write_card
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.reading.rules import ReadingRules
from torchmill.components.refs import NetworkRef
from torchmill.components.wording import percent


def test_a_card_tells_of_a_model_whose_files_are_elsewhere(trained, evaluated, toy, toy_test, tmp_path):
    for name in ("earlier", "now"):
        (tmp_path / name).mkdir()
    scores = evaluated
    model = export(trained, toy, toy_test, ExportConfig(batch_sizes=(64,)), {}, tmp_path / "earlier")
    network = NetworkRef(reference="simple_cnn", arguments={}, weights=model.onnx, parameters=421_642)
    card = write_card(tmp_path / "now", network, toy, scores, model, {"Run": "calm-otter (0123)", "Commit": ""})
    assert card == tmp_path / "now" / "MODEL_CARD.md"
    text = card.read_text()
    for told in ("# simple_cnn on toy", "421,642 parameters", "calm-otter (0123)", "- power: ", model.onnx.sha256):
        assert told in text
    assert "Commit" not in text and "| Column |" not in text and percent(scores.score) in text


def test_the_code_for_a_table_on_a_card_runs(tmp_path):
    data = toy_numbers(tmp_path, features=4)
    columns = Columns((Column("size"), Column("color", ("blue", "red")), Column("age")))
    (data.folder / COLUMNS).write_text(columns.as_json())
    network = nn.Linear(4, 3)
    with torch.no_grad():
        network.weight.normal_(std=3)
    test = read_test(data)
    scores = evaluate(network, test, data, CPU, 64, tmp_path)
    model = export(network, data, test, ExportConfig(batch_sizes=(64,)), {}, tmp_path)
    told = NetworkRef(reference="mine.py:Net", arguments={}, weights=model.onnx, parameters=15)
    text = write_card(tmp_path, told, data, scores, model, {}).read_text()
    assert "| color | blue, red |\n| age | a number |" in text
    (tmp_path / "answer.py").write_text(text.split("```python\n")[1].split("```")[0])
    (tmp_path / "table.csv").write_text("color,size,age\nred,0,0\n")
    command = text.split("env/bin/python ")[-1].split("\n")[0].split()
    assert command == ["answer.py", "table.csv"]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = StandardizedModel.of(network, data)(torch.tensor([[0.0, 0, 1, 0]])).softmax(1)[0].detach()
    row, label, probability = done.stdout.split("\t")
    assert (row, label) == ("1", data.classes[int(expected.argmax())])
    assert float(probability) == pytest.approx(float(expected.max()), abs=1e-4)


@pytest.mark.parametrize(("level", "lower_case"), [("characters", False), ("characters", True), ("words", True)])
def test_the_code_for_texts_on_a_card_encodes_as_training_does(level, lower_case):
    trained_on = ["Sato Ångström", "don't stop, e\u0301t\u00e9", "ÀÉ  x"]
    vocabulary = Vocabulary.of(trained_on, level, lower_case=lower_case, max_length=9)
    metadata = {"vocabulary": vocabulary.as_json()}
    code, *_ = fields.field("tokens").card_code((9,), ReadingRules(), None)
    names = {"json": json, "re": re, "unicodedata": unicodedata, "np": np, "metadata": metadata}
    exec(code.partition("\n\n\ndef read")[0], names)
    texts = [*trained_on, "  Sato  ", "", " ", "été, ÉTÉ!", "a\u0301 b\tc\nd", "far too long a text for these", "日本"]
    for text in texts:
        assert names["encode"](text) == vocabulary.encode([text])[0].tolist(), text  # ty: ignore[call-non-callable]
