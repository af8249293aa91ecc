"""The program on a model card answers 200 odd files and lines as ``predict`` does, with few libraries."""

import ast
import csv
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.components.reading import test_reading_contract as forms
from tests.slow import slow_but
from tests.toy import made, toy_data, toy_numbers, toy_tokens, with_different_answers
from torchmill.components.data.fetch import COLUMNS, fetch
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.export.card_code import around_network, program
from torchmill.components.export.export import FORMS
from torchmill.components.export.to_onnx import export_core, write_bare, write_complete
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.predict import predict
from torchmill.components.refs import DataRef

OF_OTHERS = {"numpy", "onnxruntime", "PIL"}


def table(folder: Path, task: str) -> DataRef:
    columns = Columns((Column("width"), Column("café", ("blue", "na", "None")), Column("age", offset=1000.0)))
    data = toy_numbers(folder, task=task, features=5)
    (folder / COLUMNS).write_text(columns.as_json(), encoding="utf-8")
    return data


def cells(folder: Path) -> DataRef:
    """A table with gaps, rare categories and dates in two orders."""
    rng = np.random.default_rng(0)
    lines = ["width,café,age,born,seen,y"]
    for n in range(300):
        width, kind, born = round(rng.normal(), 2), ["blue", "na", "None", "", f"rare {n}"][n * n % 5], n % 27 + 1
        cells = ["" if n % 7 == 0 else width, kind, 1000 + n % 9, f"{born:02}/0{n % 9 + 1}/20{n % 20 + 10}"]
        lines.append(",".join(map(str, [*cells, f"2024-01-{born:02} {n % 24:02}:30", width + n % 9 + 0.5])))
    (folder / "wild.csv").write_text("\n".join(lines), encoding="utf-8")
    return fetch(f"csv:{folder / 'wild.csv'}", folder / "cache")


KINDS: dict[str, tuple[str, Callable[[Path], DataRef]]] = {
    "grey": ("mlp", toy_data),
    "colour": ("mlp", lambda folder: toy_data(folder, channels=3)),
    "texts": ("transformer", toy_tokens),
    "classes": ("mlp", lambda folder: table(folder, "classification")),
    "labels": ("mlp", lambda folder: table(folder, "multilabel")),
    "regression": ("mlp", lambda folder: table(folder, "regression")),
    "cells": ("mlp", cells),
}


SMALL = {"transformer": {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}}
"""Arguments of networks whose usual ones take long to export."""


@pytest.fixture(scope="module", params=slow_but(("colour", "texts", "regression", "cells"), KINDS))
def exported(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataRef]:
    """A folder with both forms of a model."""
    folder = tmp_path_factory.mktemp("exported")
    name, make = KINDS[request.param]
    data = make(folder)
    core = export_core(with_different_answers(made(name, data, **SMALL.get(name, {})), read_test(data), data), data)
    write_bare(core, data, {}, folder / FORMS["bare"], 1.25)
    write_complete(core, data, {}, folder / FORMS["complete"], 1.25)
    return folder, data


def odd_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    for sides in ((12, 20), (28, 28), (65, 31)):
        monkeypatch.setattr(forms, "SIDES", sides)
        for form in sorted(forms.PICTURES.keys() - forms.NOT_ON_THE_CARD):
            (folder / f"{sides[0]}_{form}").write_bytes(forms.PICTURES[form]())
    photo = forms.saved(Image.fromarray(forms.stack(3)), "JPEG")
    broken = {"empty.png": b"", "cut.jpg": photo[: len(photo) // 2], "text.png": b"no picture", "zeros.bmp": bytes(99)}
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def odd_texts(folder: Path) -> list[Path]:
    texts = [
        "aabc",
        "  bb b ",
        "",
        " ",
        "cccc\r",
        "e\u0301",
        "\u00e9",
        "日本",
        "a\u2028b",
        "AAB",
        "a\tb",
        "b" * 40,
        "\x0cc",
    ]
    texts += ["".join(np.random.default_rng(seed).choice(list("abcdefgh xyz"), 9)) for seed in range(50)]
    file = folder / "texts.txt"
    file.write_bytes("\ufeff".encode() + "\n".join(texts).encode() + b"\n")
    return [file]


def odd_rows(folder: Path) -> list[Path]:
    numbers = [
        "1",
        " 2.5 ",
        "1e3",
        "-4",
        "\u22125",
        "1_000",
        "nan",
        "inf",
        "1e39",
        "",
        "NA",
        "1,5",
        "abc",
        "+7",
        "0x10",
    ]
    colours = ["blue", "na", "None", "none", "Blue", " blue", "", "green", "?"]
    rows = [(number, colours[place % 3], "1001") for place, number in enumerate(numbers)]
    rows += [("1", colour, "1002.5") for colour in colours]
    rows += [("2", "blue", number) for number in numbers]
    files = []
    for name, delimiter, start in (("commas.csv", ",", ""), ("semicolons.csv", ";", "\ufeff"), ("tabs.tsv", "\t", "")):
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerows([("more", "width", "cafe\u0301", "age"), *(("x", *row) for row in rows)])
        files.append(folder / name)
        files[-1].write_bytes((start + text.getvalue()).encode())
    return files


def odd_cells(folder: Path) -> list[Path]:
    numbers = ["1", " 2.5 ", "\u22125", "1_000", "nan", "inf", "1e39", "", "NA", "#N/A", "abc", "+7"]
    kinds = ["blue", "na", "None", "none", " blue", "", "green", "?", "??"]
    dates = [
        "13/04/2024",
        "04/03/2024",
        "04/13/2024",
        "2024-02-30",
        "2024/2/3",
        "",
        "NaT",
        "3 Feb 2024",
        "Feb. 3, 2024",
    ]
    dates += ["2024-01-31T13:05:09Z", "2024-01-31 23:59+02:00", "20240131", "3 Foo 2024", "1.1.2024"]
    rows = [(number, "blue", "1001", "13/04/2024", "2024-01-01") for number in numbers]
    rows += [("1", kind, number, "2024-05-06", "") for kind, number in zip(kinds, [*numbers, ""], strict=False)]
    rows += [("1", "na", "1003", day, "2024-05-05 05:00") for day in dates]
    rows += [("", "", "", day, day) for day in dates]
    file = folder / "cells.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("width", "cafe\u0301", "age", "born", "seen"), *rows])
    return [file]


def answered(code: str, folder: Path, files: list[Path]) -> list[list[str]]:
    """Run the program of a card in its own process, and return the fields of the lines that it prints."""
    (folder / "answer.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-I", "-W", "ignore", "answer.py", *map(str, files)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=True)
    return [line.split("\t") for line in done.stdout.split("\n")[:-1]]


def by_predict(model: Path, places: list[Path], folder: Path) -> list[dict[str, Any]]:
    output = folder / "answers.csv"
    predict(model, places, output)
    with output.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("form", FORMS)
def test_it_answers_as_predict_does(exported, form: str, tmp_path, monkeypatch):
    model, data = exported[0] / FORMS[form], exported[1]
    odd, columns = tmp_path / "odd", data.field.read_encoding(data.folder) if data.kind == "numbers" else None
    odd.mkdir()
    files = (
        odd_pictures(odd, monkeypatch)
        if data.kind == "images"
        else (odd_texts if data.kind == "tokens" else odd_cells if columns and columns.take_gaps else odd_rows)(odd)
    )
    code = program(str(model), metadata_of(read_without_weights(model)), data, columns)  # ty: ignore[invalid-argument-type]
    for batch in [files] if data.kind == "images" else [[file] for file in files]:
        lines, rows = answered(code, tmp_path, batch), by_predict(model, batch, tmp_path)
        for row in rows:
            if row["error"]:
                name, reason = lines.pop(0)
                assert reason.startswith("cannot be read"), (name, row)
            elif data.task == "classification":
                _, label, probability = lines.pop(0)
                assert label == row["label"], row
                assert float(probability) == pytest.approx(float(row["confidence"]), abs=1e-4), row
            else:
                for name in data.classes:
                    _, label, value = lines.pop(0)
                    assert label == name, row
                    column = name if name in row else f"probability of {name}"
                    assert float(value) == pytest.approx(float(row[column]), rel=1e-4, abs=1e-4), row
        assert not lines


def test_it_needs_few_libraries(exported):
    model, data = exported[0] / FORMS["complete"], exported[1]
    columns = data.field.read_encoding(data.folder) if data.kind == "numbers" else None
    for metadata in (
        metadata_of(read_without_weights(model)),
        metadata_of(read_without_weights(exported[0] / FORMS["bare"])),
    ):
        tree = ast.walk(ast.parse(program(model.name, metadata, data, columns)))  # ty: ignore[invalid-argument-type]
        imports = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
        modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
        assert modules <= sys.stdlib_module_names | OF_OTHERS
        assert ("PIL" in modules) == (data.kind == "images")


def test_the_code_around_the_bare_form_makes_it_equal_to_the_complete_one(exported):
    folder, data = exported
    code: dict[str, Any] = {"np": np}
    columns = data.field.read_encoding(data.folder) if data.kind == "numbers" else None
    around = around_network(metadata_of(read_without_weights(folder / FORMS["bare"])), data, columns)  # ty: ignore[invalid-argument-type]
    exec(around, code)
    inputs = read_test(data).inputs[:16].numpy()
    inputs = inputs.astype(np.int64) if data.kind == "tokens" else inputs
    complete, bare = (open_session(folder / FORMS[form]) for form in ("complete", "bare"))
    taken = {data.field.onnx_input: inputs}
    if isinstance(columns, Columns) and columns.take_gaps:
        inputs = taken = columns.model_inputs(inputs)
    prepared = code["prepare"](inputs.transpose(0, 2, 3, 1) if data.kind == "images" else inputs)
    outputs = bare.run([data.task_object.onnx_output], {data.field.bare_input: prepared})[0]
    wanted = "probabilities" if data.task_object.has_probabilities else "values"
    (expected,) = complete.run([wanted], taken)
    np.testing.assert_allclose(code["finish"](outputs), expected, rtol=1e-4, atol=1e-6)
    assert len(around.splitlines()) < 20 or columns
