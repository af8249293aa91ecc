"""Guesses about a table are reported, labels keep their spelling, and all misfits are reported together."""

from pathlib import Path

import numpy as np
import pytest

from tests.onnx_files import linear
from torchmill.components.data.fetch import fetch, read_columns
from torchmill.components.data.summary import summary
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.errors import UserError
from torchmill.components.onnx_model.model import open_model
from torchmill.components.prediction.inputs import gather
from torchmill.components.refs import DataRef


def table(tmp_path: Path, header: str, rows: list[str], **args: object) -> DataRef:
    (tmp_path / "own.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return fetch(f"csv:{tmp_path / 'own.csv'}", tmp_path / "cache", args=args)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["007", "07", "7"], {"007", "07", "7"}),
        (["1E5", "2E3", "100000"], {"1E5", "2E3", "100000"}),
        (["٣", "١٠", "3"], {"٣", "١٠", "3"}),
        (["+1", "1", "2"], {"+1", "1", "2"}),
        (["1", "1.0", "2"], {"1", "2"}),
        (["none", "scratch", "NA"], {"none", "scratch", "NA"}),
        (["NaN", "null", "fine"], {"NaN", "null", "fine"}),
    ],
)
def test_labels_keep_their_spelling(tmp_path, labels, classes):
    data = table(tmp_path, "x,label", [f"{n},{labels[n % 3]}" for n in range(60)])
    assert set(data.classes) == classes


def test_what_is_guessed_is_told(tmp_path):
    rows = [f"{n},{('NA', 'attached')[n % 2]},{n % 5}" for n in range(60)]
    told = "\n".join(summary(table(tmp_path, "size,garage,rooms", rows, ignore=""), None))
    for words in (
        "48 training, 12 test samples",
        "the label is the column 'rooms'",
        "5 whole numbers in 'rooms' are taken as classes; for numbers: --data.args.task regression",
        "'NA' in the column 'garage' is a category of its own",
        "validation is cut from the training samples",
        "test is cut from the only table",
        "classes: 0 ",
    ):
        assert words in told, told
    lines = told.splitlines()
    assert any(line.startswith("column size ") and " number " in line and "for example" in line for line in lines)
    assert any(line.startswith("column garage ") and "category of 2" in line for line in lines)
    few = table(tmp_path, "x,y", [f"{n},{n % 3 + 0.5}" for n in range(60)])
    assert few.task == "regression" and any("3 different numbers" in note for note in few.notes)


def test_all_columns_that_do_not_fit_are_told_at_once(tmp_path):
    rows = [
        f"{12345678901234567890 + n},key {n},€{n}.5,{n}%,{'' if n == 7 else n},"
        f"{'x' if n == 9 else n},{'' if n == 3 else 'ab'[n % 2]}"
        for n in range(60)
    ]
    with pytest.raises(UserError) as error:
        table(tmp_path, "id,key,price,share,size,height,label", rows)
    for words in (
        "own.csv column 'id' has whole numbers beyond",
        "a text of its own, from which nothing is learned: 'key' (60 different, for example 'key 0')",
        "line 2: '€0.5' in the column 'price' is a number written with €",
        "line 2: '0%' in the column 'share' is a number written with %",
        "line 11: 'x' in the column 'height' is not a number",
        "line 5: the column 'label' has no value",
        '"ignore": "id,key,price,share,height"',
    ):
        assert words in str(error.value), words


def test_a_typesetters_minus_is_a_minus(tmp_path):
    data = table(tmp_path, "x,label", [f"\u2212{n + 1},{'ab'[n % 2]}" for n in range(40)])
    assert (np.load(data.folder / "train_inputs.npy") < 0).all()


@pytest.mark.parametrize("start", [1_700_000_000, 9_007_199_254_740_000, 1_700_000_000.5])
def test_values_that_float32_would_merge_are_centred_in_training_and_prediction(tmp_path, start):
    seconds = [n % 100 for n in range(400)]
    data = table(tmp_path, "at,x,label", [f"{start + s},{n},{'ab'[s >= 50]}" for n, s in enumerate(seconds)])
    inputs, labels = (np.load(data.folder / f"train_{part}.npy") for part in ("inputs", "labels"))
    assert len(np.unique(inputs[:, 0])) == 100
    assert inputs[labels == 0, 0].max() < inputs[labels == 1, 0].min()
    columns = read_columns(data)
    assert columns and columns.columns[0].offset and not columns.columns[1].offset
    assert Columns.from_json(columns.as_json()) == columns
    assert columns.cells(inputs[0])["at"] in {f"{start + s:.15g}" for s in seconds}
    assert any("centred" in note for note in data.notes)
    names = {"takes": "features", "sizes": (2,), "labels": ["a", "b"], "columns": columns.as_json()}
    read = gather(open_model(linear(tmp_path / "m.onnx", np.eye(2), **names)), [tmp_path / "own.csv"])
    everything = [read.read(number) for number in range(len(read))]
    assert {row.tobytes() for row in inputs} <= {row.tobytes() for row in everything}


def test_columns_with_other_offsets_are_translated():
    ours, theirs = (Columns((Column("a", offset=offset), Column("b"))) for offset in (100.0, 40.0))
    rows = np.array([[1, 5], [2, 6]], np.float32)
    translated = ours.translation(theirs)(rows)
    assert translated.tolist() == [[-59, 5], [-58, 6]] and translated.dtype == np.float32
    assert [ours.cells(row) for row in translated] == [theirs.cells(row) for row in rows]
