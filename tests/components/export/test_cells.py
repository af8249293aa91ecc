"""A model of a table takes its cells: the file alone fills gaps, and knows categories and dates."""

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.toy import made, with_different_answers
from torchmill.components.data.fetch import fetch, read_columns
from torchmill.components.data.formats.table_columns import raw_values
from torchmill.components.data.samples import read_test
from torchmill.components.encoding.columns import Columns
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.export.gates import Candidate, cells
from torchmill.components.export.parity import refer
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.predict import predict
from torchmill.components.reading.tables import read_table
from torchmill.components.refs import DataRef

CONFIG = ExportConfig(batch_sizes=(1, 7, 64), form="both")
HEADER = "area,lot,city,sold,price"


def rows(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    written = []
    for n in range(count):
        lot, city = "" if n % 6 == 0 else f"{rng.normal(400, 90):.0f}", ["Ulm", "Bonn", "", f"Dorf {n}"][n * n % 7 % 4]
        price = np.exp(12 + 0.3 * rng.normal() + 0.1 * (city == "Ulm"))
        written.append(f"{rng.normal(120, 30):.1f},{lot},{city},2023-{n % 12 + 1:02}-{n % 28 + 1:02},{price:.2f}")
    return written


@pytest.fixture(scope="module", params=["linear", "log"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A folder with both forms of a model, its data and its network."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "train.csv").write_text("\n".join([HEADER, *rows(400)]), encoding="utf-8")
    data = fetch(f"csv:{folder / 'train.csv'}", folder / "cache", args={"target_scale": request.param})
    network = with_different_answers(made("mlp", data), read_test(data), data)
    export(network, data, read_test(data), CONFIG, {}, folder)
    return folder, data, network


def expected(folder: Path, data: DataRef, network: torch.nn.Module, file: Path) -> np.ndarray:
    columns = read_columns(data)
    assert columns
    table = read_table(file)
    encoded = np.concatenate([column.encode(raw_values(table, column)) for column in columns.columns], 1)
    with torch.no_grad():
        return StandardizedModel.of(network, data).eval()(torch.from_numpy(encoded)).numpy()


def test_the_proof_covers_gaps_and_unknown_categories(exported):
    folder, *_ = exported
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["passed"] and parity["bare"]["passed"]
    evidence = {gate["name"]: gate["evidence"] for gate in parity["gates"]}
    assert evidence["cells"].startswith("a cell of each row without a value, rows without any, unknown categories: the")
    assert "cells" not in {gate["name"] for gate in parity["bare"]["gates"]}


def test_the_file_alone_answers_cells_in_the_targets_units(exported):
    folder, data, network = exported
    file = folder / "new.csv"
    file.write_text(f"{HEADER}\n,,Ulm,2024-02-29,1\n100,300,Rom,,1\nNA,nan,,1999-12-31,1\n", encoding="utf-8")
    leap, old = (float(np.datetime64(day, "s").astype(np.int64)) for day in ("2024-02-29", "1999-12-31"))
    numeric = np.array([[np.nan, np.nan, leap], [100, 300, np.nan], [np.nan, np.nan, old]])
    categorical = np.array([["Ulm"], ["Rom"], [""]], object)
    session = open_session(folder / "model.onnx")
    assert [taken.type for taken in session.get_inputs()] == ["tensor(double)", "tensor(string)"]
    (answers,) = session.run(["values"], {"numeric": numeric, "categorical": categorical})
    wanted = expected(folder, data, network, file)
    np.testing.assert_allclose(answers, wanted, rtol=1e-4)
    if data.target_scale == "log":
        assert (answers > 0).all()


@pytest.mark.parametrize("form", ["model.onnx", "model.bare.onnx"])
def test_predict_fills_gaps_and_tells_what_training_did_not_have(exported, form, tmp_path, caplog):
    folder, data, network = exported
    file = tmp_path / "new.csv"
    lines = [",300,Rom,2024-02-29", "90,,Ulm,2023-05-05", "90,x,Ulm,2023-05-05", "90,300,Ulm,soon"]
    file.write_text("\n".join(["area,lot,city,sold", *lines]), encoding="utf-8")
    predict(folder / form, [file], tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(newline="") as opened:
        answered = list(csv.DictReader(opened))
    assert [row["error"] for row in answered] == [
        "",
        "",
        "'x' is not a number in 'lot'",
        "'soon' is not a date in 'sold'",
    ]
    file.write_text("\n".join(["area,lot,city,sold", *lines[:2]]), encoding="utf-8")
    wanted = expected(folder, data, network, file)
    np.testing.assert_allclose([float(row["price"]) for row in answered[:2]], wanted[:, 0], rtol=1e-4)
    columns = read_columns(data)
    assert columns
    area = columns.columns[0]
    told = (
        f"1 of 4 cells of 'area' have no value: in training none was missing; the median {area.shown_median} is taken"
    )
    assert told in caplog.text and "1 of 4 values of 'city' are no categories that were learned" in caplog.text


@pytest.mark.parametrize("change", ["median", "categories", "offset"])
def test_a_graph_that_fills_gaps_otherwise_is_not_published(exported, change):
    folder, data, network = exported
    proto = onnx.load(folder / "model.onnx")
    for entry in proto.metadata_props:
        if entry.key == "columns":
            columns = json.loads(entry.value)
            columns[0]["median"] += 40 * (change == "median")
            columns[3]["offset"] += 2 * (change == "offset")
            columns[2]["categories"] = columns[2]["categories"][:: -1 if change == "categories" else 1]
            entry.value = json.dumps(columns)
    onnx.save(proto, folder / "changed.onnx")
    model, test = StandardizedModel.of(network, data).eval(), read_test(data)
    _, judge = refer(model, data, test, 1e-4)
    gate = cells(Candidate(folder / "changed.onnx", model, data, test, judge, 1.0))
    assert gate and not gate.passed


def test_columns_of_an_earlier_version_are_read_and_refuse_gaps():
    columns = Columns.from_json(
        '[{"name": "age"}, {"name": "color", "categories": ["blue", "red"]}, {"name": "at", "offset": 5.0}]'
    )
    assert not columns.take_gaps and columns.features == ("age", "color = blue", "color = red", "at")
    assert columns.encode({"numeric": np.array([[1.0, 7.0]]), "categorical": np.array([["red"]])}).tolist() == [
        [1, 0, 1, 2]
    ]
