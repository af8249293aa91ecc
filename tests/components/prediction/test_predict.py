"""Every input has its row, in order; unreadable inputs are reported; a kill loses one part at most."""

import csv
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from tests.onnx_files import bag_of_letters, linear
from torchmill.components.errors import UserError
from torchmill.components.prediction import predict as predicting
from torchmill.components.prediction.predict import predict


def halves(path: Path, **more) -> Path:
    """A model that decides whether the upper or the lower half is brighter."""
    weights = np.zeros((8, 8, 2))
    weights[:4, :, 0] = weights[4:, :, 1] = 1 / 255
    return linear(path, weights.reshape(64, 2), sizes=(1, 8, 8), labels=["upper", "lower"], **more)


def draw(folder: Path, count: int, size: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(count):
        pixels = np.zeros((size, size), np.uint8)
        pixels[: size // 2] = 250 * (number % 2 == 0)
        pixels[size // 2 :] = 250 * (number % 2 == 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def rows(output: Path) -> list[dict[str, str]]:
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def bomb(path: Path, size: int) -> None:
    """Write a PNG of few bytes that declares a huge size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def test_a_folder_of_images_is_answered_in_natural_order(tmp_path: Path):
    draw(tmp_path / "in", 12)
    draw(tmp_path / "in" / "deeper", 2, size=30)  # which is resized
    done = predict(halves(tmp_path / "model.onnx"), [tmp_path / "in"], tmp_path / "out.csv")
    assert (done.answered, done.unreadable) == (14, 0)
    found = rows(tmp_path / "out.csv")
    assert list(found[0]) == ["file", "label", "confidence", "probability of upper", "probability of lower", "error"]
    flat = [row for row in found if "deeper" not in row["file"]]
    assert [Path(row["file"]).name for row in flat] == [f"{number}.png" for number in range(12)]
    assert [row["label"] for row in flat] == ["upper", "lower"] * 6
    assert all(float(row["confidence"]) > 0.99 for row in found)
    assert {path.name for path in tmp_path.iterdir()} == {"in", "model.onnx", "out.csv", "out.drift.json"}


def test_what_cannot_be_read_is_told_and_left(tmp_path: Path, caplog):
    draw(tmp_path / "in", 3)
    (tmp_path / "in" / "4.png").write_bytes(b"no image")
    (tmp_path / "in" / "5.png").write_bytes(b"")
    bomb(tmp_path / "in" / "6.png", 9_000)
    bomb(tmp_path / "in" / "7.png", 50_000)
    model = halves(tmp_path / "model.onnx")
    with caplog.at_level("WARNING", "torchmill"):
        done = predict(model, [tmp_path / "in"], tmp_path / "out.jsonl", probabilities=False)
    assert (done.answered, done.unreadable) == (3, 4)
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [bool(row["error"]) for row in found] == [False] * 3 + [True] * 4
    assert "has 9,000 × 9,000 pixels" in found[5]["error"] and found[6]["error"] == "has too many pixels"
    assert set(found[0]) == {"file", "label", "confidence", "error"}
    assert "4.png" in caplog.text
    with pytest.raises(UserError, match="None of the 1 inputs could be read"):
        predict(model, [tmp_path / "in" / "4.png"], tmp_path / "none.csv")


def test_numbers_are_taken_by_name_or_in_their_order(tmp_path: Path):
    more = {"takes": "features", "sizes": (2,), "labels": ["x is larger", "y is larger"]}
    named = linear(tmp_path / "named.onnx", np.eye(2), columns='[{"name": "x"}, {"name": "y"}]', **more)
    plain = linear(tmp_path / "plain.onnx", np.eye(2), **more)
    (tmp_path / "in.csv").write_text("y,x,label\n1,2,a\n5,2,b\nmany,2,b\n,1,a\n")
    predict(named, [tmp_path / "in.csv"], tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [row["label"] for row in found] == ["x is larger", "y is larger", "", ""]
    assert [row["error"] for row in found[2:]] == ["'many' is not a number in 'y'", "no value in 'y'"]
    assert found[0]["file"].endswith("in.csv line 2")
    predict(plain, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")][:2] == ["y is larger", "x is larger"]
    (tmp_path / "in.csv").write_text("x,yy,z\n1,2,3\n")
    with pytest.raises(UserError, match=r"has no column 'y'\. Did you mean yy"):
        predict(named, [tmp_path / "in.csv"], tmp_path / "out.csv")
    with pytest.raises(UserError, match="has 3 columns beside the label, and the model takes 2"):
        predict(plain, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert len(rows(tmp_path / "out.csv")) == 4  # what was there stays


def test_names_are_taken_as_training_took_them(tmp_path: Path):
    columns = '[{"name": "x"}, {"name": "color", "categories": ["blue", "red"]}]'
    more = {"takes": "features", "sizes": (3,), "labels": ["x", "blue", "red"], "columns": columns}
    statistics = '{"mean": [0, 0.5, 0.5], "std": [1, 0.5, 0.5]}'
    model = linear(tmp_path / "m.onnx", np.diag([1.0, 2, 2]), input_statistics=statistics, **more)
    rest = "green,1\n" * 16
    (tmp_path / "in.csv").write_text(f"color,x\nred,1\n blue ,1\n,1\nred,1e300\nred,True\n{rest}")
    done = predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [row["label"] for row in found[:6]] == ["red", "blue", "", "", "", "x"]
    assert [row["error"] for row in found[2:5]] == [
        "no value in 'color'",
        "'1e300' is not a number in 'x'",
        "'True' is not a number in 'x'",
    ]
    note = json.loads(done.drift.read_text())
    assert note["unknown_categories"] == {"color": pytest.approx(16 / 18)} and done.is_far
    assert done.likeness.endswith("88.89 % of 'color' are none of the training's categories")
    (tmp_path / "in.csv").write_text("colour,x\nred,1\n")
    with pytest.raises(UserError, match=r"has no column 'color'\. Did you mean colour"):
        predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
    import pyarrow

    cells = {"color": ["red", None, "red", "green"], "x": [False, True, None, True], "when": [1, 2, 3, 4]}
    parquet.write_table(pyarrow.table(cells), tmp_path / "in.parquet")
    predict(model, [tmp_path / "in.parquet"], tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["red", "", "", "x"]


def test_an_answer_that_is_no_number_is_an_error(tmp_path: Path):
    model = linear(tmp_path / "m.onnx", np.diag([1.0, 2]), takes="features", sizes=(2,), labels=["a", "b"])
    (tmp_path / "in.csv").write_text("x,y\n3e38,3e38\n1,2\n")
    done = predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["", "b"] and done.unreadable == 1
    assert rows(tmp_path / "out.csv")[0]["error"] == "the model's answer is no number: nan or infinite"


def test_a_rare_category_is_told_by_its_share(tmp_path: Path):
    columns = '[{"name": "x"}, {"name": "color", "categories": ["blue", "red"]}]'
    more = {"takes": "features", "sizes": (3,), "labels": ["x", "blue", "red"], "columns": columns}
    statistics = '{"mean": [1, 0.99, 0.01], "std": [1, 0.1, 0.1]}'
    model = linear(tmp_path / "m.onnx", np.diag([1.0, 2, 2]), input_statistics=statistics, **more)
    (tmp_path / "in.csv").write_text("x,color\n" + "1,red\n1,blue\n" * 40)
    done = predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert done.is_far
    assert done.likeness == "'color = blue' is in 50.00 % of the inputs, and in 99.00 % of the training's"


def test_parquet_is_read_and_written_and_a_regression_gives_values(tmp_path: Path):
    import pyarrow

    model = linear(
        tmp_path / "m.onnx", np.array([[2.0], [0]]), takes="features", gives="values", sizes=(2,), labels=["twice x"]
    )
    parquet.write_table(pyarrow.table({"x": [1.0, 2.5, None], "y": [0, 0, 0]}), tmp_path / "in.parquet")
    predict(model, [tmp_path / "in.parquet"], tmp_path / "out.parquet")
    found = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert found["twice x"] == [2, 5, None] and found["error"][2] == "no value in 'x'"
    assert set(found) == {"file", "twice x", "error"}


def test_texts_are_taken_from_lines_and_from_a_column(tmp_path: Path):
    model = bag_of_letters(tmp_path / "m.onnx", "ab", 5 * np.eye(2), ["mostly a", "mostly b"])
    (tmp_path / "in.txt").write_text("aab\nabb\n\nAAA\n")
    predict(model, [tmp_path / "in.txt"], tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert [row["label"] for row in found] == ["mostly a", "mostly b", "", "mostly a"]
    assert found[2]["error"] == "is empty"
    for content in ("text,more\naab,1\nabb,2\n", "text\naab\nabb\n"):
        (tmp_path / "in.csv").write_text(content)
        predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
        assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["mostly a", "mostly b"]
    (tmp_path / "in.csv").write_text("txt,more\naab,1\n")
    with pytest.raises(UserError, match=r"has no column 'text'\. Did you mean txt"):
        predict(model, [tmp_path / "in.csv"], tmp_path / "out.csv")
    named = bag_of_letters(
        tmp_path / "n.onnx", "ab", 5 * np.eye(2), ["mostly a", "mostly b"], columns='[{"name": "says"}]'
    )
    (tmp_path / "in.csv").write_text("text,says\nbb,aa\n")
    predict(named, [tmp_path / "in.csv"], tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["mostly a"]


def test_several_labels_are_joined(tmp_path: Path):
    model = halves(tmp_path / "m.onnx", task="multilabel")
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "both.png")
    predict(model, [tmp_path / "both.png"], tmp_path / "out.csv")
    assert rows(tmp_path / "out.csv")[0]["label"] == "upper|lower"


def test_what_is_written_is_not_answered_again(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(predicting, "PART", 4)
    draw(tmp_path / "in", 10)
    model = halves(tmp_path / "model.onnx")
    whole = predict(model, [tmp_path / "in"], tmp_path / "whole.csv")
    assert whole.found_done == 0
    with monkeypatch.context() as patched:
        answers, calls = predicting._answers, []

        def dying(*arguments):
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return answers(*arguments)

        patched.setattr(predicting, "_answers", dying)
        with pytest.raises(KeyboardInterrupt):
            predict(model, [tmp_path / "in"], tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "in" / "11.png")  # one more meanwhile
    done = predict(model, [tmp_path / "in"], tmp_path / "out.csv")
    assert (done.found_done, done.answered) == (8, 11)
    assert (tmp_path / "out.csv").read_text().startswith((tmp_path / "whole.csv").read_text())
    note = json.loads(done.drift.read_text())
    assert note["samples"] == 11 and sum(note["confidence_histogram"]) == 11


def test_a_process_that_is_killed_leaves_no_half_row_and_the_next_one_goes_on(tmp_path: Path):
    draw(tmp_path / "in", 600)
    model = halves(tmp_path / "model.onnx")
    expected = predict(model, [tmp_path / "in"], tmp_path / "whole.csv")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from torchmill.components.prediction import predict as p\np.PART = 50\n"
        "before = p._answers\n"
        "def slow(*a):\n    time.sleep(0.05)\n    return before(*a)\n"
        "p._answers = slow\n"
        "p.predict(Path('model.onnx'), [Path(sys.argv[1])], Path('out.csv'))\n"
    )
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", code, str(tmp_path / "in")]
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob(".out.csv.parts/*.json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out.csv").exists()
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "out.csv").read_text() == (tmp_path / "whole.csv").read_text()
    assert not (tmp_path / ".out.csv.parts").exists() and expected.answered == 600


def test_a_link_in_place_of_the_folder_of_parts_is_refused(tmp_path: Path):
    draw(tmp_path / "in", 2)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.json").write_text("[]")
    (tmp_path / ".out.csv.parts").symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a link"):
        predict(halves(tmp_path / "model.onnx"), [tmp_path / "in"], tmp_path / "out.csv")
    assert (tmp_path / "precious" / "notes.json").exists() and not (tmp_path / "out.csv").exists()


def test_files_of_others_in_the_folder_of_parts_stay(tmp_path: Path):
    draw(tmp_path / "in", 2)
    parts = tmp_path / ".out.csv.parts"
    parts.mkdir()
    for name in ("notes.json", f"{'0' * 32}.json", f".{'0' * 32}.json.123.partial"):
        (parts / name).touch()
    predict(halves(tmp_path / "model.onnx"), [tmp_path / "in"], tmp_path / "out.csv")
    assert [path.name for path in parts.iterdir()] == ["notes.json"]


def test_a_spreadsheet_takes_no_cell_for_a_formula(tmp_path: Path):
    draw(tmp_path / "in", 2)
    weights = np.zeros((8, 8, 2))
    weights[:4, :, 0] = weights[4:, :, 1] = 1 / 255
    model = linear(tmp_path / "m.onnx", weights.reshape(64, 2), sizes=(1, 8, 8), labels=["=SUM(A1)", "-1"])
    predict(model, [tmp_path / "in"], tmp_path / "out.csv")
    assert [row["label"] for row in rows(tmp_path / "out.csv")] == ["'=SUM(A1)", "-1"]  # a number is one
    predict(model, [tmp_path / "in"], tmp_path / "out.jsonl")
    assert "'" not in (tmp_path / "out.jsonl").read_text()


def test_inputs_unlike_the_training_data_are_told(tmp_path: Path):
    like = halves(tmp_path / "a.onnx", input_statistics='{"mean": [0.49], "std": [0.49]}')
    unlike = halves(tmp_path / "b.onnx", input_statistics='{"mean": [0.05], "std": [0.1]}')
    draw(tmp_path / "in", 6)
    for model, far in ((like, False), (unlike, True)):
        note = json.loads(predict(model, [tmp_path / "in"], tmp_path / "out.csv").drift.read_text())
        assert note["is_far"] is far and note["mean"] == pytest.approx([0.4902], abs=1e-3)
        assert sum(note["brightness_histogram"]) == 6
    silent = json.loads(predict(halves(tmp_path / "c.onnx"), [tmp_path / "in"], tmp_path / "out.csv").drift.read_text())
    assert silent["training"] is None


def test_a_few_inputs_are_not_called_unlike_by_chance(tmp_path: Path):
    model = halves(tmp_path / "a.onnx", input_statistics='{"mean": [0.05], "std": [0.8]}')  # 0.55 deviations off
    for count, far in ((2, False), (100, True)):
        draw(tmp_path / f"in{count}", count)
        done = predict(model, [tmp_path / f"in{count}"], tmp_path / "out.csv")
        assert done.is_far is far and done.likeness.startswith("the mean" if far else "too few to say: the mean")


def test_a_mistake_is_told_before_anything_is_written(tmp_path: Path):
    model = halves(tmp_path / "model.onnx")
    draw(tmp_path / "in", 1)
    (tmp_path / "empty").mkdir()
    for places, output, words in (
        ([tmp_path / "inn"], "out.csv", "Did you mean in"),
        ([tmp_path / "empty"], "out.csv", "There are no images"),
        ([tmp_path / "in"], "out.xlsx", "unknown ending"),
        ([tmp_path / "in"], "nowhere/out.csv", "There is no folder"),
    ):
        with pytest.raises(UserError, match=words):
            predict(model, places, tmp_path / output)
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_it_imports_neither_torch_nor_mlflow():
    code = (
        "import sys, torchmill.components.prediction.predict\nprint(*{'torch', 'mlflow', 'prefect'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("", 0)
