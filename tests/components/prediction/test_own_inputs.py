"""Predictions for what the user's own function returns."""

from pathlib import Path

import numpy as np
import pytest

from tests.components.prediction.test_predict import halves, rows
from tests.onnx_files import bag_of_letters, linear
from torchmill.components.errors import UserError
from torchmill.components.prediction.predict import predict

OWN = """
import numpy as np
import pandas
from PIL import Image

PIXELS = np.zeros((3, 8, 8), np.uint8)
PIXELS[0, :4] = PIXELS[1, 4:] = PIXELS[2, :4] = 250

def alone():
    return PIXELS

def pairs():
    return {"train": (PIXELS, [0, 1, 0]), "test": (PIXELS[1:], [1, 0])}

def pictures():
    return [Image.fromarray(each) for each in PIXELS]

def large():
    return np.zeros((3, 9, 9), np.uint8)

def texts():
    return ["aab", "", "bbb"]

def table():
    return pandas.DataFrame({"y": [1.5, 2.0], "more": [0, 0], "x": [3.0, -4.0]})

def numbers():
    return np.arange(6.0).reshape(3, 2)

def fields():
    return {"left": [1, 2], "right": [3, 4]}
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    return lambda function: Path(f"{tmp_path}/own.py:{function}")


def test_images_are_answered_with_or_without_labels(tmp_path, own):
    model = halves(tmp_path / "model.onnx")
    for function, expected in {
        "alone": ["upper", "lower", "upper"],
        "pairs": ["lower", "upper"],
        "pictures": ["upper", "lower", "upper"],
    }.items():
        done = predict(model, [own(function)], tmp_path / "out.csv")
        assert [row["label"] for row in rows(done.output)] == expected, function
    assert rows(done.output)[1]["file"].endswith("own.py:pictures item 1")


def test_texts_and_tables_are_answered(tmp_path, own):
    texts = bag_of_letters(tmp_path / "t.onnx", "ab", 5 * np.eye(2), ["mostly a", "mostly b"])
    answers = rows(predict(texts, [own("texts")], tmp_path / "out.csv").output)
    assert [row["label"] for row in answers] == ["mostly a", "", "mostly b"] and answers[1]["error"] == "is empty"
    more = {"takes": "features", "sizes": (2,), "labels": ["x", "y"]}
    named = linear(tmp_path / "n.onnx", np.eye(2), columns='[{"name": "x"}, {"name": "y"}]', **more)
    answers = rows(predict(named, [own("table")], tmp_path / "out.csv").output)
    assert [row["label"] for row in answers] == ["x", "y"]  # by the columns' names
    plain = linear(tmp_path / "p.onnx", np.eye(2), **more)
    assert len(rows(predict(plain, [own("numbers")], tmp_path / "out.csv").output)) == 3


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("large", r"gives inputs of the shape \(1, 9, 9\), and the model takes \(1, 8, 8\)"),
        ("fields", "gives named fields, and the model takes one input"),
        ("numbers", "gives inputs of the shape"),
        ("missing", r"has no function 'missing'"),
    ],
)
def test_values_that_do_not_fit_are_told(tmp_path, own, function, words):
    with pytest.raises(UserError, match=words):
        predict(halves(tmp_path / "model.onnx"), [own(function)], tmp_path / "out.csv")
    with pytest.raises(UserError, match="Give the function alone"):
        predict(halves(tmp_path / "model.onnx"), [own(function), tmp_path], tmp_path / "out.csv")
