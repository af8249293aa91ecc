"""Cells that a data set's own columns can't tell reach the columns of another model."""

from pathlib import Path

import numpy as np

from torchmill.components.data.fetch import fetch, read_columns
from torchmill.components.data.lost_cells import FILE, part_of, read_lost_cells, with_lost_cells
from torchmill.components.data.samples import read_test
from torchmill.components.evaluation.other_data import as_trained, read_as_trained
from torchmill.components.refs import DataRef

CITIES = [f"city {number}" for number in range(40)]


def sales(folder: Path, name: str, rows: int, cities: int, seed: int) -> DataRef:
    rng = np.random.default_rng(seed)
    lines = ["city,income,price"]
    for row in range(rows):
        income = 1e6 + row if row % 120 == 5 else round(np.exp(rng.normal()), 3)
        lines.append(f"{CITIES[rng.integers(cities) if row % 9 else row % 40]},{income},{rng.normal():.4f}")
    (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return fetch(f"csv:{folder / f'{name}.csv'}", folder / "cache")


def test_rare_categories_and_far_outliers_are_told_to_a_model_that_knows_them(tmp_path):
    trained, other = sales(tmp_path, "trained", 8000, 40, 0), sales(tmp_path, "other", 3000, 3, 1)
    ours, theirs = read_columns(trained), read_columns(other)
    assert ours and theirs and len(theirs.columns[0].categories) < len(ours.columns[0].categories) == 40
    lost = read_lost_cells(other.folder)
    assert {cell for _, cell in lost["city"]} <= set(CITIES) - set(theirs.columns[0].categories)
    incomes = [cell for _, cell in lost["income"] if isinstance(cell, float)]
    assert incomes and min(incomes) > theirs.columns[1].ends[1]
    read = read_as_trained(other, trained).inputs.numpy()
    assert read.shape[1] == len(ours.features) and as_trained(other, trained).shape == trained.shape
    cities = read[:, ours.spans["city"]]
    assert (cities.sum(1) == 1).all()
    for row, city in lost["city"]:
        assert ours.columns[0].categories[cities[row].argmax()] == city
    rows = [row for row, _ in lost["income"]]
    expected = np.minimum(incomes, ours.columns[1].ends[1]).astype(np.float32)
    assert np.array_equal(read[rows, ours.spans["income"].start], expected)


def test_cells_of_some_rows_are_counted_among_these(tmp_path):
    other = sales(tmp_path, "other", 3000, 3, 1)
    columns, lost = read_columns(other), read_lost_cells(other.folder)
    assert columns
    rows = [row for row, _ in lost["city"]][1:3]
    part = part_of(lost, [0, *rows])
    assert [row for row, _ in part["city"] if row] == [1, 2]
    inputs = read_test(other).inputs.numpy()
    patched = with_lost_cells(inputs[[0, *rows]], columns, {"city": [(1, columns.columns[0].categories[0])]})
    assert patched[1, columns.spans["city"]].tolist()[0] == 1 and np.array_equal(patched[0], inputs[0])


def test_a_table_that_loses_nothing_has_no_such_file(tmp_path):
    (tmp_path / "own.csv").write_text("x,y\n" + "".join(f"{n}.5,{'ab'[n % 2]}\n" for n in range(60)))
    data = fetch(f"csv:{tmp_path / 'own.csv'}", tmp_path / "cache")
    assert not (data.folder / FILE).exists() and read_lost_cells(data.folder) == {}
