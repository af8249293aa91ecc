"""Values of a user's function are read as they are meant, or refused in a line with place, item and remedy."""

from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.formats.user_function import load_own
from torchmill.components.data.splits import Splits
from torchmill.components.encoding.columns import Columns
from torchmill.components.errors import UserError

HEAD = """
import numpy as np, pandas as pd, torch
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
N = 80
r = np.random.default_rng(0)
y = np.arange(N) % 2
def frame(**more): return pd.DataFrame({"a": r.normal(size=N), "b": r.integers(0, 5, N), **more})
samples = TensorDataset(torch.arange(4 * N, dtype=torch.float32).reshape(N, 4), torch.arange(N) % 2)
"""


def load(tmp_path: Path, value: str) -> Splits:
    (tmp_path / "mine.py").write_text(f"{HEAD}\ndef data():\n    return {value}\n")
    return load_own(str(tmp_path / "mine.py"), "data", {})


def every(splits: Splits) -> np.ndarray:
    return np.concatenate([splits.train.inputs, splits.test.inputs])


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((4, 6, 3), (3, 4, 6)),
        ((3, 6, 4), (3, 6, 4)),
        ((4, 9, 1), (1, 4, 9)),
        ((1, 9, 4), (1, 9, 4)),
        ((8, 8, 3), (3, 8, 8)),
        ((3, 3, 3), (3, 3, 3)),
    ],
)
def test_small_images_are_read_in_the_layout_that_makes_pictures(tmp_path, caplog, shape, read):
    splits = load(tmp_path, f"(r.integers(0, 255, (N, *{shape})).astype(np.uint8), y)")
    assert splits.train.inputs.shape[1:] == read
    assert ("are taken as" in caplog.text) == (shape[0] in (1, 3, 4))


def test_the_depth_of_arrays_is_decided_over_all_splits(tmp_path):
    splits = load(
        tmp_path,
        "{'train': (np.arange(N * 64).reshape(N, 8, 8).astype(np.uint16) % 900, y), "
        "'test': (np.full((9, 8, 8), 4000, np.uint16), np.arange(9) % 2)}",
    )
    assert splits.rules.top == 4095 and "0 to 4,095 (12 bits)" in splits.notes[0]
    assert int(splits.test.inputs.max()) == 249 and int(splits.train.inputs.max()) == 56


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_data_loader_is_its_dataset(tmp_path, shuffle):
    splits = load(tmp_path, f"DataLoader(samples, batch_size=16, shuffle={shuffle}, drop_last=True)")
    assert sorted(every(splits)[:, 0].tolist()) == [float(4 * n) for n in range(80)]
    both = load(tmp_path, f"{{'train': DataLoader(samples, shuffle={shuffle}), 'test': DataLoader(samples)}}")
    assert (len(both.train), len(both.test)) == (80, 80)


def test_a_loader_of_some_samples_gives_these(tmp_path):
    splits = load(tmp_path, "DataLoader(samples, sampler=SubsetRandomSampler(range(0, 80, 2)))".replace(", 2)", ", 1)"))
    assert len(every(splits)) == 80
    with pytest.raises(UserError, match="WeightedRandomSampler, which decides on its samples"):
        load(tmp_path, "DataLoader(samples, sampler=WeightedRandomSampler([1.0] * N, N))")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("frame(when=pd.date_range('2024-01-01', periods=N)), y", "'when' holds datetime64.*2024-01-01.*get_dummies"),
        ("frame(c=pd.Categorical(['x', 'y'] * 40), s=['t'] * N), y", "'c' holds category.*; 's' holds"),
        ("frame(d=pd.array([1, None] * 40, dtype='Int64')), y", "'d' has no value in 40 rows, the first is row 1"),
        ("frame(a=1e39), y", "'a' holds 1e.39 in row 0, which float32 can't hold.*scale them"),
        ("frame(d=pd.array([1] * 79 + [None], dtype='Int64')), y", "'d' has no value in 1 row, the first is row 79"),
        ("np.where(np.arange(N) == 3, 1e39, 0.5), y", "1 sample holds values.*number 3, with 1e.39 as feature 0"),
        ("frame(), pd.Series(['p', None] * 40)", "labels: 40 of 80 have no value; the first is number 1"),
        ("np.full((N, 2), 1.7e9) + np.arange(N)[:, None] % 50, y", "feature 0 has values around 1,700,000,0"),
        ("{'train': ([f'a b {n}' for n in range(N)], y), 'lower_case': 'false'}", "lower_case is 'false'"),
        ("{'train': ([f'a b {n}' for n in range(N)], y), 'max_length': True}", "max_length is True"),
    ],
)
def test_what_is_not_clear_is_refused_with_its_place(tmp_path, value, words):
    with pytest.raises(UserError, match=words) as error:
        load(tmp_path, value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("**pd.get_dummies(pd.Series(['x', 'y'] * 40))", [[1, 0], [0, 1]]),
        ("d=pd.array([1, None] * 40, dtype='Int64').fillna(0)", [[1], [0]]),
        ("d=pd.array([1, 3] * 40, dtype='Int64')", [[1], [3]]),
        ("d=pd.array([True, False] * 40, dtype='boolean'), e=[True, False] * 40", [[1, 1], [0, 0]]),
        ("d=pd.array([0.5, 2] * 40, dtype='Float32')", [[0.5], [2]]),
    ],
)
def test_columns_of_several_types_of_numbers_are_read(tmp_path, columns, expected):
    """The remedies for a refused frame lead to such columns."""
    splits = load(tmp_path, f"frame({columns}), y")
    rows = every(splits)[:, 2:]
    assert {tuple(row) for row in rows.tolist()} == {tuple(map(float, row)) for row in expected}


def test_nullable_labels_are_classes(tmp_path):
    splits = load(tmp_path, "frame(), pd.Series(pd.array([1, 2] * 40, dtype='Int64'))")
    assert splits.task == "classification" and splits.classes == ("1", "2")


def test_the_remedy_for_dates_gives_seconds(tmp_path):
    for unit in ("s", "ms", "us", "ns"):
        days = f"pd.Series(pd.date_range('2024-01-01', periods=N).as_unit('{unit}'))"
        splits = load(tmp_path, f"frame(at={days}.astype('datetime64[s]').astype('int64')), y")
        assert sorted(np.diff(np.sort(every(splits)[:, 2])).tolist()) == [86400.0] * 79
    with pytest.raises(UserError, match=r"astype\('datetime64\[s\]'\).astype\('int64'\) for dates"):
        load(tmp_path, "frame(at=pd.date_range('2024-01-01', periods=N)), y")


def test_a_frame_with_unix_times_is_centred(tmp_path):
    splits = load(tmp_path, "frame(at=1_700_000_000 + np.arange(N)), y")
    assert isinstance(splits.columns, Columns) and splits.columns.columns[2].offset
    assert sorted(np.diff(np.sort(every(splits)[:, 2])).tolist()) == [1.0] * 79
