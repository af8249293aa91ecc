"""Windows of a series: those of a random cut overlap, those of a cut in time or of other series don't."""

import numpy as np
import pytest

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.fetch import fetch
from torchmill.components.data.inspection.findings import leakage_error
from torchmill.components.data.inspection.inspect_fields import inspect_fields
from torchmill.components.data.inspection.overlaps import overlaps, time_field
from torchmill.components.errors import UserError

OWN = """
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

rng = np.random.default_rng(0)
series = np.cumsum(rng.normal(size=3000)).astype("float32")

def windows(stride=5):  # activity in windows that overlap by nine tenths
    history = sliding_window_view(series, 50)[::stride].copy()
    return {"signal": history, "label": (history[:, -1] > history[:, 0]).astype(int)}

def apart():
    return windows(stride=50)

def people():
    rows = windows()
    return {"train": rows, "groups": np.arange(len(rows["label"])) // 200}

def forecasts():
    whole = sliding_window_view(series, 60)[::5]
    return {"history": whole[:, :48].copy(), "target": whole[:, 48:].copy()}

def two_people():
    rows = windows(50)
    return {"train": rows, "groups": np.arange(len(rows["label"])) // 30}

def silence():
    rows = windows(50)
    rows["signal"][:, 20:] = 0
    return rows
"""


def inspected(tmp_path, function, **args):
    (tmp_path / "own.py").write_text(OWN)
    data = fetch(f"{tmp_path}/own.py:{function}", tmp_path / "cache", args=args)
    return data, inspect_fields(data, tmp_path / "run")


@pytest.mark.parametrize("function", ["windows", "forecasts"])
def test_overlapping_windows_cut_at_random_are_told(tmp_path, function):
    data, findings = inspected(tmp_path, function)
    assert findings.leakage > 0.95 and findings.overlapping == round(findings.leakage * findings.compared)
    assert "overlap, training windows" in findings.lines()[0] and "item" in findings.lines()[0]
    error = leakage_error(data, findings, 0.01)
    assert "overlaps" in error.message and "--data.split last" in str(error)


@pytest.mark.parametrize("function", ["apart", "silence"])
def test_windows_with_steps_of_their_own_are_no_leak(tmp_path, function):
    assert inspected(tmp_path, function)[1].leakage == 0


def test_a_cut_in_time_is_no_leak(tmp_path):
    assert inspected(tmp_path, "forecasts", **{"data.split": "last"})[1].leakage == 0


def test_groups_that_share_steps_at_their_ends_leak_a_little(tmp_path):
    assert 0 < inspected(tmp_path, "people")[1].leakage < 0.1


def test_of_two_groups_none_is_left_to_validate_with(tmp_path):
    with pytest.raises(UserError, match=r"All \d+ training samples .* are of one group.*'validation'"):
        inspected(tmp_path, "two_people")


def test_the_time_axis_is_the_longest_and_channels_must_agree():
    rng = np.random.default_rng(1)
    series = rng.normal(size=(3, 400)).astype(np.float32)
    field = FieldRef(name="x", file="x", kind="values", shape=(3, 40), dtype="float32")
    windows = np.stack([series[:, start : start + 40] for start in range(0, 360, 10)])
    train, test = windows[::2], windows[1::2]
    found = overlaps(train, test, field, {})
    assert found.rows.tolist() == list(range(len(test))) and found.run == 16
    mixed = test[:, [1, 0, 2]]
    assert not len(overlaps(train, mixed, field, {}).rows)
    last = train.transpose(0, 2, 1)
    assert len(overlaps(last, test.transpose(0, 2, 1), field.model_copy(update={"shape": (40, 3)}), {}).rows)


def test_tables_have_no_time_axis():
    field = FieldRef(name="x", file="x", kind="values", shape=(5,), dtype="float32")
    label = FieldRef(name="y", file="y", kind="ids", shape=(), dtype="int64", is_target=True)
    assert time_field([field, label]) is None
