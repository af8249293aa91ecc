"""Predictions for texts of models of tasks over named fields."""

import json

import numpy as np
import pytest

from tests.components.tasks.test_token_labels import OWN
from tests.components.tasks.trials import Trial
from tests.toy_tokenizers import wordpiece
from torchmill.components.data.fetch import fetch
from torchmill.components.errors import UserError
from torchmill.components.onnx_model.field_run import fields_taken
from torchmill.components.prediction.predict_fields import predict_fields

MORE = """
def unlabelled():
    return {"tokens": [["Anna", "lives", "in", "Rome"], ["Ben", "Miller3", "lives", "in", "Oslo", "now"]]}

def other():
    return {"words": [["Anna"]]}
"""


def trained(folder, tokenizer=None):
    """Return the exported tagger of names."""
    own = folder / "own.py"
    own.write_text(OWN + MORE)
    args = {"tokenizer": str(tokenizer)} if tokenizer else {}
    data = fetch(f"{own}:sentences", folder / "cache", args=args)
    trial = Trial.with_data(folder, data, "token_labels", f"{own}:Tagger")
    trial.train(120)
    return trial.export()[0].onnx.path


@pytest.fixture(scope="module")
def by_words(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def by_pieces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pieces")
    names = ["Anna Ben Cleo Dan lives in Paris Rome Oslo now", *(f"Miller{n}" for n in range(60))]
    model = trained(folder, wordpiece(folder, names, size=60))
    (folder / "tokenizer.json").unlink()  # the model keeps it
    return model


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


LINE = "Anna Miller7 lives in Rome now"
SPANS = [
    {"type": "PER", "text": "Anna Miller7", "start": 0, "end": 12},
    {"type": "LOC", "text": "Rome", "start": 22, "end": 26},
]


@pytest.mark.parametrize("form", ["by_words", "by_pieces"])
def test_lines_of_a_text_get_spans_in_words(request, tmp_path, form):
    (tmp_path / "in.txt").write_text(f"{LINE}\n\nDan lives in  Paris now\n")
    done = predict_fields(request.getfixturevalue(form), [tmp_path / "in.txt"], tmp_path / "out.jsonl")
    first, empty, last = rows(done.output)
    assert (first["text"], first["spans"]) == (LINE, SPANS) and first["file"].endswith("in.txt line 1")
    assert empty["spans"] == []
    assert [(span["type"], span["text"]) for span in last["spans"]] == [("PER", "Dan"), ("LOC", "Paris")]
    assert done.answered == 3


def test_json_lines_columns_and_functions_are_read(by_words, tmp_path):
    words = LINE.split()
    (tmp_path / "in.jsonl").write_text(f"{json.dumps({'tokens': words})}\n\n{json.dumps(LINE)}\n{json.dumps(words)}\n")
    (tmp_path / "test.txt").write_text("\n".join(f"{word} O" for word in words) + "\n\nBen B-PER\n")
    (tmp_path / "new.conll").write_text("\n".join(words))
    places = [tmp_path / name for name in ("in.jsonl", "test.txt", "new.conll")]
    own = by_words.parents[1] / "own.py"
    done = predict_fields(by_words, [*places, own.with_name("own.py:unlabelled")], tmp_path / "out.jsonl")
    answers = rows(done.output)
    assert len(answers) == done.answered == 8
    assert [answer["spans"] for answer in answers[:4]] == [SPANS] * 4 and answers[5]["spans"] == SPANS
    assert answers[7]["text"] == "Ben Miller3 lives in Oslo now"
    assert [span["text"] for span in answers[7]["spans"]] == ["Ben Miller3", "Oslo"]


def test_answers_to_texts_may_be_arrays(by_words, tmp_path):
    (tmp_path / "in.txt").write_text(f"{LINE}\nBen lives in Rome")
    done = predict_fields(by_words, [tmp_path / "in.txt"], tmp_path / "out.npz")
    with np.load(done.output) as arrays:
        assert arrays["labels"].shape == (2, 6) and [name.rpartition(" ")[2] for name in arrays["file"]] == ["1", "2"]


@pytest.mark.parametrize("form", ["by_words", "by_pieces"])
def test_texts_longer_than_those_of_training_are_answered_in_parts(request, tmp_path, caplog, form):
    sentence = "Anna Miller7 lives in Rome now "
    (tmp_path / "in.txt").write_text(f"{LINE}\n{sentence * 40}\nBen lives in Oslo")
    with caplog.at_level("INFO", "torchmill"):
        done = predict_fields(request.getfixturevalue(form), [tmp_path / "in.txt"], tmp_path / "out.jsonl")
    _, long, last = rows(done.output)
    assert done.answered == 3 and [span["text"] for span in last["spans"]] == ["Ben", "Oslo"]
    assert len(long["text"]) == len(sentence) * 40
    assert all(long["text"][span["start"] : span["end"]] == span["text"] for span in long["spans"])
    expected = {(at * len(sentence) + 22, at * len(sentence) + 26) for at in range(40)}
    places = {(span["start"], span["end"]) for span in long["spans"] if span["text"] == "Rome"}
    assert len(places & expected) >= 35  # at the ends of parts, context is missing
    assert "answered in parts" in caplog.text and "logits: left out of out.jsonl" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.jsonl", '{"tokens": ["a"]}\n{"token": 1}\n[', r"line 2 has no 'tokens', line 3 is no JSON"),
        ("in.jsonl", '{"tokens": [1, 2]}', r"in\.jsonl line 1: 'tokens' is no text"),
        ("in.txt", "", "There are no samples"),
    ],
)
def test_malformed_texts_are_told(by_words, tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        predict_fields(by_words, [tmp_path / name], tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_descriptions_of_other_versions_are_read_if_they_say_nothing_new():
    described = {"name": "x", "file": "x", "kind": "values", "shape": [2], "dtype": "float32"}
    assert fields_taken({"fields": json.dumps([{**described, "later": 0}])})[0].name == "x"
    for damaged in (json.dumps([{**described, "later": 3}]), "[3]", "{"):
        with pytest.raises(UserError, match="description of its inputs can't be read"):
            fields_taken({"fields": damaged})


def test_functions_without_the_fields_are_told(by_words, tmp_path):
    own = by_words.parents[1] / "own.py"
    with pytest.raises(UserError, match=r"has no field tokens\..*words"):
        predict_fields(by_words, [own.with_name("own.py:other")], tmp_path / "out.jsonl")
