"""Time series become windows that are cut by time, and faults of a file are named with their lines."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.config import DataConfig
from torchmill.components.data.datasets.series import load
from torchmill.components.data.fetch import arguments, fetch
from torchmill.components.data.field_samples import read_fields
from torchmill.components.data.inspection.inspect_fields import inspect_fields
from torchmill.components.data.summary import summary
from torchmill.components.errors import ConfigError, UserError
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig


def series(folder: Path, times: list, header: str = "time,load,wind", row="{time},{number},{double}") -> Path:
    file = folder / "series.csv"
    lines = [row.format(time=time, number=number, double=2 * number) for number, time in enumerate(times)]
    file.write_text("\n".join([header, *lines]))
    return file


def hours(count: int) -> list[str]:
    return [str(datetime(2026, 1, 1) + timedelta(hours=hour)) for hour in range(count)]


def test_no_training_window_reaches_into_validation_or_test(tmp_path):
    splits = load(series(tmp_path, hours(400)), target="load", horizon=24, context=48)
    targets = {split: arrays["future"] for split, arrays in splits.arrays.items()}
    # The value is the number of the step. 80 of 400 steps test, and 32 before them validate.
    assert {split: (part.min(), part.max()) for split, part in targets.items()} == {
        "train": (48, 287),
        "validation": (288, 319),
        "test": (320, 399),
    }
    assert {split: len(part) for split, part in targets.items()} == {"train": 217, "validation": 9, "test": 57}
    test = splits.arrays["test"]
    assert test["history"].shape == (57, 2, 48)
    assert test["history"][0, :, -1].tolist() == [319, 638]
    assert test["future"][0].tolist() == list(range(320, 344))
    assert splits.origins["test"][0] == "from 2026-01-14 08:00:00 on"
    history, future = splits.fields
    assert history.mean == pytest.approx([143.5, 287]) and future.mean == pytest.approx([143.5])
    assert history.season == future.season == 24


def test_a_series_goes_through_the_cache_and_the_inspection(tmp_path):
    file = series(tmp_path, hours(400))
    config = DataConfig(name=f"series:{file}", args={"target": "load"}, split="last")
    data = fetch(config.name, tmp_path / "cache", args=arguments(config))
    assert (data.shape, data.test_size, data.validation_size) == ((2, 72), 57, 9)
    lines = "\n".join(summary(data))
    assert "400 steps of 1 hour, season 24: 24 steps of 'load' from 72 of load, wind" in lines
    assert for_task(data, TaskConfig()).goal.reference == "forecasting"
    samples = read_fields(data, "test")
    assert samples.fields["future"].shape == (57, 24)
    assert inspect_fields(data, tmp_path / "inspection").leakage == 0


@pytest.mark.parametrize(
    ("times", "words", "season"),
    [
        ([f"{2000 + month // 12}-{month % 12 + 1:02}" for month in range(200)], "1 month", 12),
        ([f"{1950 + quarter // 4}-Q{quarter % 4 + 1}" for quarter in range(200)], "3 months", 4),
        ([str(datetime(2026, 1, 1).date() + timedelta(days=day)) for day in range(200)], "1 day", 7),
        ([str(datetime(2026, 1, 1) + timedelta(minutes=30 * half)) for half in range(300)], "30 minutes", 48),
        ([f"{time}Z" for time in hours(200)], "1 hour", 24),
        ([time.replace("-", "/").replace("T", " ") for time in hours(200)], "1 hour", 24),
        ([f"{datetime(2026, 1, 1) + timedelta(days=day):%d.%m.%Y}" for day in range(200)], "1 day", 7),
    ],
)
def test_steps_and_seasons_follow_from_the_times(tmp_path, times, words, season):
    splits = load(series(tmp_path, times), target="wind")
    assert splits.fields[0].season == season
    assert f"steps of {words}, season {season}" in splits.notes[0]


def test_a_file_of_values_alone_is_steps(tmp_path):
    splits = load(series(tmp_path, hours(100), "sales", "{number}"))
    assert "rows are steps" in splits.notes[1]
    assert splits.fields[1].shape == (12,)
    assert splits.origins["train"][0] == "from line 26 on"


def test_hours_as_numbers_are_values_beside_a_column_of_times(tmp_path):
    file = series(tmp_path, hours(200), "hour,load,date", "{number},{double},{time}")
    assert "of 1 hour, season 24: 24 steps of 'load' from 72 of load, hour" in load(file, target="load").notes[0]
    splits = load(file, target="load", time="hour", ignore="date")
    assert "season 1: 12 steps" in splits.notes[0]


def test_gaps_are_told_with_the_first(tmp_path):
    times = hours(300)
    del times[100:103], times[200]
    splits = load(series(tmp_path, times), target="load", horizon=6, context=30)
    odd = "2 of 295 steps are not of 1 hour, the first after 2026-01-05 03:00:00 (line 101)"
    assert splits.notes[1] == f"{odd}: rows are taken as equal steps"


def shuffled(times: list[str]) -> list[str]:
    return [*times[:50], times[51], times[50], *times[52:]]


@pytest.mark.parametrize(
    ("times", "arguments", "message"),
    [
        (shuffled(hours(300)), {}, r"line 53: .*01-03 02:00:00 comes before 2026-01-03 03:00:00, the time of the row"),
        ([*hours(200), hours(200)[-1]], {}, "line 202: .* is the same time as"),
        ([*hours(200), "03/01/2026"], {}, r"1 of 201 cells of the column 'time' are no times, line 202: '03/01/2026'"),
        (hours(100), {"horizon": 60}, r"has 100 steps: the last 60 test, 60 before them validate, and the other 0"),
        (hours(100), {"context": 24}, "A history of 24 steps|a history of 24 steps holds no season of 24"),
        (hours(100), {"target": "lod"}, "no column 'lod'. Did you mean load"),
        (hours(100), {"time": "date"}, "no column 'date'"),
    ],
)
def test_what_is_wrong_with_a_series_is_told_with_its_place(tmp_path, times, arguments, message):
    with pytest.raises(UserError, match=message):
        load(series(tmp_path, times), **{"target": "load", **arguments})


def test_all_columns_with_gaps_or_texts_are_named_at_once(tmp_path):
    file = series(tmp_path, hours(200))
    lines = file.read_text().splitlines()
    lines[7], lines[9], lines[12] = "2026-01-01 06:00:00,NaN,3", "2026-01-01 08:00:00,,3", "2026-01-01 11:00:00,1,calm"
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="'load' has no value in line 8 and 1 more; 'wind' holds 'calm' in line 13"):
        load(file, target="load")
    with pytest.raises(UserError, match="which one shall be forecast"):
        load(file)


OWN = """
import numpy as np
def steps(test=False):
    part = {"x": np.arange(100, dtype="float32")[:, None], "target": np.arange(100, dtype="float32")[:, None]}
    return {"train": part, "test": part} if test else part
def pair():
    return np.arange(100, dtype="float32")[:, None], np.arange(100) / 7
def grouped():
    return {"train": steps(), "groups": np.arange(100)}
def texts():
    return ["a text", "another one"] * 50, [0, 1] * 50
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)

    def prepared(function: str, **args):
        config = DataConfig(name=f"{tmp_path}/own.py:{function}", args=args, split="last")
        return fetch(config.name, tmp_path / "cache", args=arguments(config))

    return prepared


def test_the_last_samples_of_own_data_test_and_those_before_validate(own):
    data = own("steps").with_split(0.1, seed=3)
    steps = {split: read_fields(data, split).fields["x"][:, 0].tolist() for split in ("train", "validation", "test")}
    assert steps == {"train": [*range(72)], "validation": [*range(72, 80)], "test": [*range(80, 100)]}
    assert any("validation is the end of the training samples" in line for line in summary(data))


def test_own_test_splits_are_kept_and_the_end_of_training_validates(own):
    data = own("steps", test=True)
    assert read_fields(data, "validation").fields["x"][:, 0].tolist() == [*range(90, 100)]
    assert data.test_size == 100


def test_pairs_are_cut_in_order_too(own):
    data = own("pair")
    assert np.load(data.folder / "test_inputs.npy")[:, 0].tolist() == [*range(80, 100)]


def test_random_and_last_cuts_are_different_data(own, tmp_path):
    ordered, random = own("steps"), fetch(f"{tmp_path}/own.py:steps", tmp_path / "cache")
    assert ordered.folder != random.folder
    assert ordered.sha256 != random.sha256 and ordered.identity() != random.identity()


def test_cuts_by_order_that_make_no_sense_are_refused(own):
    with pytest.raises(UserError, match="'groups', and --data"):
        own("grouped")
    with pytest.raises(UserError, match="gives texts, which --data"):
        own("texts")
    with pytest.raises(ConfigError, match="digits is cut in its own way"):
        arguments(DataConfig(name="digits", split="last"))
