"""Tables as they are: gaps, rare categories, dates, skewed targets, Parquet; and every fault at once."""

from datetime import date
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from torchmill.components.data.fetch import fetch, read_columns
from torchmill.components.data.samples import read_test, read_training
from torchmill.components.data.summary import summary
from torchmill.components.encoding.columns import Column
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef

ROWS = 400


def table(folder: Path, name: str = "own.csv", /, args: dict | None = None, **columns: list) -> DataRef:
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return fetch(f"csv:{folder / name}", folder / "cache", args=args or {})


def column_called(data: DataRef, name: str) -> Column:
    columns = read_columns(data)
    assert columns
    return next(column for column in columns.columns if column.name == name)


def rows_of(data: DataRef, column: str) -> np.ndarray:
    columns = read_columns(data)
    assert columns
    return np.load(data.folder / "train_inputs.npy")[:, columns.spans[column]]


NUMBERS = [f"{n % 37 + 0.5}" for n in range(ROWS)]
LABELS = ["ab"[n % 3 == 0] for n in range(ROWS)]


@pytest.mark.parametrize("gap", ["", "NA", "NaN", "null", "#N/A", "<NA>", "n/a", "None"])
def test_a_number_without_a_value_gets_trainings_median_and_a_mark(tmp_path, gap):
    sizes = [gap if n % 5 == 0 else number for n, number in enumerate(NUMBERS)]
    data = table(tmp_path, size=sizes, age=NUMBERS, label=LABELS)
    size, age = column_called(data, "size"), column_called(data, "age")
    assert size.has_gaps and not age.has_gaps and (size.width, age.width) == (2, 1)
    rows = rows_of(data, "size")
    marked = rows[:, 1] == 1
    assert 0.1 < marked.mean() < 0.3 and set(rows[marked, 0].tolist()) == {size.median}
    assert np.median(rows[~marked, 0]) == size.median
    assert f"replaced by training's median, and marked: 'size' by {size.median:g}" in "\n".join(data.notes)
    assert any("number, gaps" in line for line in summary(data))


def test_gaps_in_test_alone_get_the_median_without_a_mark(tmp_path):
    (tmp_path / "own.csv").write_text("size,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(9)))
    (tmp_path / "test.csv").write_text("size,label\n,a\n2,b\n")
    data = fetch(f"csv:{tmp_path / 'own.csv'}", tmp_path / "cache", args={"test": str(tmp_path / "test.csv")})
    assert np.load(data.folder / "test_inputs.npy").tolist() == [[4], [2]]


def test_rare_categories_are_one_and_so_are_the_most_beyond_the_limit(tmp_path):
    kinds = [f"rare {n}" if n % 50 == 7 else "abc"[n % 3] if n % 4 else "" for n in range(ROWS)]
    data = table(tmp_path, kind=kinds, x=NUMBERS, label=LABELS)
    column = column_called(data, "kind")
    assert (column.categories, column.has_other) == (("", "a", "b", "c"), True)
    assert rows_of(data, "kind").sum(1).tolist() == [1] * data.train_size
    assert "rare categories are one, 'other': 'kind' (beside 4)" in data.notes
    assert "cells of the column 'kind' without a value are a category of their own" in data.notes
    few = column_called(table(tmp_path, kind=kinds, x=NUMBERS, label=LABELS, args={"max_categories": 2}), "kind")
    assert len(few.categories) == 2 and few.has_other


def test_categories_of_a_small_table_all_count(tmp_path):
    column = column_called(table(tmp_path, kind=["a", *"bc" * 20], x=NUMBERS[:41], label=LABELS[:41]), "kind")
    assert not column.has_other or column.categories == ("b", "c")


def test_numbers_are_also_given_in_pieces_if_asked_for_and_far_outliers_are_cut(tmp_path):
    rng = np.random.default_rng(0)
    income = np.exp(rng.normal(size=2000)).round(4)
    income[::300] = 1e6
    columns = {"income": income.tolist(), "flag": [n % 2 for n in range(2000)], "label": LABELS * 5}
    data = table(tmp_path, args={"pieces": 16}, **columns)
    column, flag = column_called(data, "income"), column_called(data, "flag")
    assert len(column.edges) == 1 + data.train_size // 250 and not flag.edges and not flag.ends
    low, high = column.ends
    rows = rows_of(data, "income")
    assert low < 0 < 10 < high < 100 and rows[:, 0].max() == np.float32(high)
    assert (rows[:, 1:] >= 0).all() and (rows[:, 1:] <= 1).all() and rows[:, 1:].mean() == pytest.approx(0.5, abs=0.05)
    assert (np.diff(rows[np.argsort(rows[:, 0])], axis=0) >= 0).all()
    assert column.features[1] == f"income from {column.edges[0]:.5g} to {column.edges[1]:.5g}"
    assert any(note.startswith("far outliers are cut: 'income' to ") for note in data.notes)
    plain = table(tmp_path, **columns)  # a network with as many inputs as the table has numbers takes it
    assert column_called(plain, "income").width == 1
    assert any(note.startswith("--data.args.pieces 16 gives numbers in pieces") for note in plain.notes)
    wide = {f"x{n}": columns["income"] for n in range(101)}
    assert column_called(table(tmp_path, args={"pieces": 16}, **wide, label=columns["label"]), "x0").width == 1


@pytest.mark.parametrize(
    ("cells", "day_first", "has_times"),
    [
        (["2024-01-31", "2024-02-01"], None, False),
        (["2024-01-31 13:00", "2024-02-01"], None, True),
        (["31/01/2024", "03/04/2024"], True, False),
        (["01/31/2024", "03/04/2024"], False, False),
        (["31 Jan 2024", "1 Feb 2024"], None, False),
    ],
)
def test_dates_become_their_parts(tmp_path, cells, day_first, has_times):
    data = table(tmp_path, when=[cells[n % 2] for n in range(40)], x=NUMBERS[:40], label=LABELS[:40])
    column = column_called(data, "when")
    assert (column.is_date, column.day_first, column.has_times) == (True, day_first, has_times)
    assert set(rows_of(data, "when")[:, column.features.index("when: year")].tolist()) == {2024}
    shown = {column.shown(row) for row in rows_of(data, "when")}
    assert shown <= {"2024-01-31", "2024-02-01", "2024-04-03", "2024-03-04", "2024-01-31 13:00:00"}
    assert any(line.startswith("column when") and " date " in line for line in summary(data))


def test_an_order_of_day_and_month_that_no_date_tells_is_refused_or_set(tmp_path):
    columns = {"when": [f"0{n % 9 + 1}/04/2024" for n in range(40)], "x": NUMBERS[:40], "label": LABELS[:40]}
    with pytest.raises(UserError) as error:
        table(tmp_path, **columns)
    message = str(error.value)
    words = "own.csv line 2: '01/04/2024' in the column 'when' is 2024-04-01 with the day first, 2024-01-04 with"
    assert words in message
    assert "--data.args.date_order day_first or month_first" in message
    for order, month in (("day_first", 4), ("month_first", 1)):
        data = table(tmp_path, args={"date_order": order}, **columns)
        column = column_called(data, "when")
        assert column.day_first == (order == "day_first")
        months = {column.shown(row)[5:7] for row in rows_of(data, "when")}
        assert f"{month:02}" in months


def test_every_fault_is_told_at_once_with_its_line(tmp_path):
    def spoiled(values: list, **cells: str) -> list:
        return [cells.get(f"line{n + 2}", value) for n, value in enumerate(values)]

    days = [f"2024-01-{n % 28 + 1:02}" for n in range(ROWS)]
    mixed = ["13/04/2024" if n == 5 else "04/13/2024" if n == 9 else "01/02/2024" for n in range(ROWS)]
    with pytest.raises(UserError) as error:
        table(
            tmp_path,
            size=spoiled(NUMBERS, line9="x", line12="7 m", line20="2%"),
            when=spoiled(days, line4="2024-02-30", line6="2024-13-01"),
            mixed=mixed,
            empty=[""] * ROWS,
            name=[f"person {n}" for n in range(ROWS)],
            key=[f"{n:x}-{n}" for n in range(ROWS)],
            label=spoiled(LABELS, line30="", line31=""),
        )
    message = str(error.value)
    for words in (
        "line 9: 'x' in the column 'size' is not a number (nor is line 12: '7 m')",
        "line 20: '2%' in the column 'size' is a number written with %",
        "line 4: '2024-02-30' in the column 'when' is no date (nor is line 6: '2024-13-01')",
        "has the day first in some dates, and the month first in others: own.csv line 7: '13/04/2024' and own",
        "the column 'empty' has no value at all",
        "'name' (400 different, for example 'person 0'), 'key' (400 different",
        "line 30: the column 'label' has no value there, nor in 31",
        '"ignore": "size,when,mixed,empty,name,key"',
    ):
        assert words in message, message


def test_a_skewed_target_is_told_and_its_logarithm_is_trained(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    prices = np.exp(2 * x + 5)
    columns = {"x": x.tolist(), "price": [f"{price:.3f}" for price in prices]}
    plain = table(tmp_path, **columns)
    assert any("'price' is skewed" in note and "--data.args.target_scale log" in note for note in plain.notes)
    data = table(tmp_path, args={"target_scale": "log"}, **columns)
    assert (data.target_scale, data.task) == ("log", "regression") and not any("skewed" in note for note in data.notes)
    training, _ = read_training(data)
    assert abs(float(training.labels.mean())) < 0.1 and float(training.labels.std()) == pytest.approx(1, abs=0.1)
    truth = np.load(data.folder / "train_labels.npy")
    assert data.target_spread == pytest.approx(truth.std(0)) and data.target_mean == pytest.approx(
        np.log(truth).mean(0)
    )
    assert np.array_equal(read_test(data).labels.numpy(), np.load(data.folder / "test_labels.npy"))
    assert plain.identity() != data.identity() and plain.target_units == plain.target_std


def test_a_target_without_a_logarithm_is_refused(tmp_path):
    prices = ["0" if n == 4 else "-2" if n == 7 else f"{n + 1}" for n in range(40)]
    with pytest.raises(UserError, match=r"line 6: '0' in the column 'price' has no logarithm.*\(nor is line 9: '-2'\)"):
        table(tmp_path, args={"target_scale": "log"}, x=NUMBERS[:40], price=prices)
    with pytest.raises(UserError, match="target_scale is log, and the task is classification"):
        table(tmp_path, args={"target_scale": "log", "task": "classification"}, x=NUMBERS[:40], price=prices)


def test_many_whole_numbers_are_targets(tmp_path):
    data = table(tmp_path, x=NUMBERS, price=[1000 + 7 * n for n in range(ROWS)])
    assert data.task == "regression" and any("so many differ" in note for note in data.notes)


def test_the_identity_of_data_without_a_target_scale_is_that_of_earlier_versions(tmp_path):
    data = table(tmp_path, x=NUMBERS, label=LABELS)
    earlier = data.model_dump(exclude={"target_scale", "target_spread"})
    assert DataRef(**earlier).identity() == data.identity()
    assert "target_s" not in data.model_dump_json(exclude={"target_std", *data.later_fields})


def wild_columns() -> dict[str, list]:
    return {
        "size": [None if n % 5 == 0 else n + 0.5 for n in range(ROWS)],
        "rooms": [n % 7 for n in range(ROWS)],
        "when": [None if n % 9 == 0 else f"2024-01-{n % 28 + 1:02}" for n in range(ROWS)],
        "kind": [("a", "b", None)[n % 3] for n in range(ROWS)],
        "label": LABELS,
    }


def test_parquet_gives_the_same_as_text(tmp_path):
    columns = wild_columns()
    written = {name: ["" if cell is None else cell for cell in cells] for name, cells in columns.items()}
    by_text = table(tmp_path, **written)
    dates = [None if cell is None else date.fromisoformat(cell) for cell in columns["when"]]
    arrays = columns | {
        "when": pyarrow.array(dates, pyarrow.date32()),
        "kind": pyarrow.array(columns["kind"]).dictionary_encode(),
    }
    parquet.write_table(pyarrow.table(arrays), tmp_path / "own.parquet")
    by_schema = fetch(f"parquet:{tmp_path / 'own.parquet'}", tmp_path / "cache")
    assert read_columns(by_schema) == read_columns(by_text)
    for file in ("train_inputs", "train_labels", "test_inputs"):
        assert np.array_equal(*(np.load(data.folder / f"{file}.npy") for data in (by_schema, by_text)))


def test_types_of_parquet_come_from_its_schema(tmp_path):
    rows = {"code": [f"{n % 3}" for n in range(60)], "is_new": [n % 2 == 0 for n in range(60)], "y": LABELS[:60]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "own.parquet")
    data = fetch(f"parquet:{tmp_path / 'own.parquet'}", tmp_path / "cache")
    assert column_called(data, "code").categories == ("0", "1", "2")
    assert set(rows_of(data, "is_new").ravel().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"x": [[1]] * 9, "z": [b"a"] * 9, "y": LABELS[:9]}, r"no numbers, dates or texts: 'x' \(list.*'z' \(binary\)"),
        ({"x": [1.0, float("inf"), *[2.0] * 30], "y": LABELS[:32]}, "row 2: 'inf' in the column 'x' is not a number"),
        ({"x": [1.0] * 9, "y": [None, *LABELS[:8]]}, "row 1: the column 'y' has no value"),
        ({"x": pyarrow.array([], pyarrow.int64()), "y": pyarrow.array([], pyarrow.string())}, "2 columns and 0 rows"),
        ({}, "is not a Parquet file"),
    ],
)
def test_a_parquet_file_that_is_wrong_is_refused(tmp_path, rows, words):
    if rows:
        parquet.write_table(pyarrow.table(rows), tmp_path / "own.parquet")
    else:
        (tmp_path / "own.parquet").write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match=words):
        fetch(f"parquet:{tmp_path / 'own.parquet'}", tmp_path / "cache")
