"""The values that a user's function may return, and the errors for others."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.fetch import fetch, read_columns
from torchmill.components.data.formats.user_function import load_own
from torchmill.components.data.splits import Splits
from torchmill.components.encoding.columns import Columns
from torchmill.components.errors import UserError

HEAD = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
rng = np.random.RandomState(0)
pixels = rng.randint(0, 256, (40, 3, 8, 8)).astype("uint8")
numbers = rng.rand(40, 5)
classes = np.arange(40) % 4
words = [f"a text of number {i} with words" for i in range(40)]
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Splits]:
    """Load the data of a function with this body."""

    def run(body: str, signature: str = "", **args: object) -> Splits:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        file = tmp_path / "mine.py"
        file.write_text(f"{HEAD}\ndef data({signature}):\n{lines}\n")
        return load_own(str(file), "data", args)

    return run


@pytest.mark.parametrize(
    ("given", "shape"),
    [
        ("pixels", (3, 8, 8)),
        ("torch.from_numpy(pixels)", (3, 8, 8)),
        ("pixels[:, 0]", (1, 8, 8)),
        ("pixels.transpose(0, 2, 3, 1)", (3, 8, 8)),
        ("[Image.fromarray(one.transpose(1, 2, 0)) for one in pixels]", (3, 8, 8)),
        ("list(pixels)", (3, 8, 8)),
    ],
)
def test_images_of_every_layout_become_nchw(load, given, shape):
    splits = load(f"return {given}, classes")
    assert splits.train.inputs.dtype == np.uint8
    assert splits.train.inputs.shape[1:] == shape
    assert len(splits.train) + len(splits.test) == 40 and 4 <= len(splits.test) <= 14
    assert len(set(splits.test.labels)) == 4
    assert splits.classes == ("0", "1", "2", "3")


def test_pixels_are_unchanged(load):
    straight, turned = load("return pixels, classes"), load("return pixels.transpose(0, 2, 3, 1), classes")
    assert np.array_equal(straight.train.inputs, turned.train.inputs)
    assert np.array_equal(straight.test.inputs, turned.test.inputs)


@pytest.mark.parametrize("given", ["numbers", "numbers.tolist()", "torch.tensor(numbers)", "(numbers * 9).astype(int)"])
def test_numbers_become_float32(load, given):
    splits = load(f"return {given}, classes")
    assert (splits.train.inputs.dtype, splits.train.inputs.shape) == (np.float32, (len(splits.train), 5))
    assert len(splits.train) + len(splits.test) == 40


FRAME = "import pandas\nframe = pandas.DataFrame(numbers, columns=list('abcde'))\n"


def test_a_frame_of_numbers_gives_its_columns_their_names(load, tmp_path):
    splits = load(f"{FRAME}return frame, classes")
    assert splits.columns == Columns.called("abcde")
    assert load("return numbers, classes").columns is None
    data = fetch(f"{tmp_path / 'mine.py'}:data", tmp_path / "cache")
    assert read_columns(data) is None
    load(f"{FRAME}return frame, classes")
    assert read_columns(fetch(data.name, tmp_path / "cache")) == splits.columns
    load("return numbers, classes")
    assert read_columns(fetch(data.name, tmp_path / "cache")) is None  # the names of before are gone


@pytest.mark.parametrize(
    ("test", "words"),
    [
        ("frame.rename(columns={'c': 'cc'})", r"test has no column 'c', as train has\. Did you mean cc"),
        ("frame[list('abced')]", "test has other columns than train, or in another order"),
    ],
)
def test_frames_with_different_columns_are_refused(load, test, words):
    with pytest.raises(UserError, match=words):
        load(f"{FRAME}return {{'train': (frame, classes), 'test': ({test}, classes)}}")
    with pytest.raises(UserError, match="train has two columns called 'a'"):
        load(f"{FRAME}return frame.rename(columns={{'b': 'a'}}), classes")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("pixels[:, 0] / 255", r"float64 of the shape \(8, 8\) are taken as numbers.*by \(images \* 255\)"),
        ("pixels.astype('float32')", r"by images.astype\('uint8'\)"),
        ("pixels.transpose(0, 2, 3, 1) / 127.5 - 1", r"by \(images \* 127.5 \+ 127.5\)"),
        ("pixels[:, 0, :, :2] / 255", ""),
        ("rng.randn(40, 9, 128)", ""),
        ("numbers", ""),
    ],
)
def test_fractions_that_look_like_images_get_a_warning_with_the_conversion(load, caplog, given, words):
    load(f"return {given}, classes")
    assert bool(caplog.text) == bool(words) and re.search(words, caplog.text)


@pytest.mark.parametrize(
    ("labels", "task", "dtype", "shape", "names"),
    [
        ("['b', 'a'] * 20", "classification", np.int64, (), ("a", "b")),
        ("[10, 9] * 20", "classification", np.int64, (), ("9", "10")),
        ("classes[:, None]", "classification", np.int64, (), ("0", "1", "2", "3")),
        ("classes > 1", "classification", np.int64, (), ("False", "True")),
        ("numbers[:, 0]", "regression", np.float32, (1,), ("target",)),
        ("numbers[:, :2]", "regression", np.float32, (2,), ("target 0", "target 1")),
        ("(numbers > 0.5).astype(int)", "multilabel", np.uint8, (5,), tuple(f"label {i}" for i in range(5))),
    ],
)
def test_the_task_follows_from_the_labels(load, labels, task, dtype, shape, names):
    splits = load(f"return numbers, {labels}")
    assert (splits.task, splits.train.labels.dtype, splits.train.labels.shape[1:]) == (task, dtype, shape)
    assert splits.classes == names


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("classes.astype('float32')", "labels are 4 different whole numbers, and taken as targets of a regression"),
        ("np.eye(4, dtype=int)[classes]", "each sample has exactly one of the 4 labels"),
        ("numbers[:, 0]", ""),
        ("(numbers > 0.5).astype(int)", ""),
        ("classes", ""),
    ],
)
def test_labels_that_look_like_classes_get_a_warning(load, caplog, labels, words):
    load(f"return numbers, {labels}")
    assert words in caplog.text and bool(words) == bool(caplog.text)
    caplog.clear()
    assert load(f"return {{'train': (numbers, {labels}), 'task': 'regression'}}").task == "regression"
    assert not caplog.text


def test_a_dataset_of_items_is_taken_one_by_one(load):
    body = """
class Mine(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return torch.from_numpy(pixels[i]), int(classes[i])
return Mine()
"""
    by_item, at_once = load(body.strip()), load("return pixels, classes")
    assert np.array_equal(by_item.train.inputs, at_once.train.inputs)
    assert np.array_equal(by_item.train.labels, at_once.train.labels)
    whole = load("return TensorDataset(torch.from_numpy(pixels), torch.from_numpy(classes))")
    assert np.array_equal(whole.test.inputs, at_once.test.inputs)


def test_splits_that_are_given_stay(load):
    splits = load(
        'return {"train": (pixels[:20], classes[:20]), "validation": (pixels[20:30], classes[20:30]), '
        '"test": (pixels[30:], classes[30:]), "classes": ["n", "e", "s", "w"]}'
    )
    assert (len(splits.train), len(splits.validation or ()), len(splits.test)) == (20, 10, 10)
    assert splits.classes == ("n", "e", "s", "w")


@pytest.mark.parametrize("name", ["val", "valid"])
def test_splits_may_be_called_as_in_folders(load, name):
    splits = load(f'return {{"train": (pixels, classes), "{name}": (pixels[:4], classes[:4])}}')
    assert len(splits.validation or ()) == 4


def test_equal_inputs_stay_on_one_side_of_the_cut(load):
    splits = load("return np.concatenate([pixels, pixels]), np.concatenate([classes, classes])")
    train = {row.tobytes() for row in splits.train.inputs}
    assert not train & {row.tobytes() for row in splits.test.inputs}


def test_long_texts_are_words_and_short_ones_characters(load):
    long, short = (
        load("return words, classes"),
        load("return [w.split()[-2] + str(i) for i, w in enumerate(words)], classes"),
    )
    assert long.vocabulary and long.vocabulary.level == "words" and long.validation
    assert short.vocabulary and short.vocabulary.level == "characters"


def test_arguments_are_given_and_the_data_is_prepared(load, tmp_path):
    load("return numbers[:count], classes[:count]", "count", count=20)
    ref = fetch(f"{tmp_path / 'mine.py'}:data", tmp_path / "cache", args={"count": 30})
    assert (ref.kind, ref.train_size + ref.test_size, ref.source) == ("numbers", 30, f"{tmp_path / 'mine.py'}:data")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", r"train is nothing \(None\)"),
        ("return 3", "train is a int"),
        ("return pixels", r"train is uint8 \(40, 3, 8, 8\)"),
        ("return pixels, classes, 1", "tuple of 3, not a pair"),
        (
            "return (pixels, classes), (pixels, classes)",
            'tuple of 2 data sets.*Give splits by name: {"train": …, "test"',
        ),
        ("return (TensorDataset(torch.ones(3, 2), torch.ones(3)),) * 3", "tuple of 3 data sets"),
        ("return {'train': (pixels, classes), 'val': 1, 'valid': 1}", "gives 'validation' twice, once as 'valid'"),
        ("return pixels, classes[:9]", "40 inputs and 9 labels"),
        ("return pixels[:0], classes[:0]", "is empty"),
        ("return pixels.astype('int64'), classes", "Give uint8 for images, float32 for numbers"),
        ("return np.where(numbers > 0.9, np.nan, numbers), classes", "no finite numbers; the first is number"),
        ("return [[1, 2], [3]], [0, 1]", r"number 1 has the shape \(1,\), number 0 \(2,\)"),
        ("return numbers, classes * 0", "all labels are the same, '0'"),
        ("return numbers, np.arange(40)[:, None] * [1, 2]", "labels are whole numbers of the shape"),
        ("return numbers, [None] * 40", "number 0 is nothing"),
        ("return {'test': (numbers, classes)}", "gives no 'train'"),
        ("return {'train': (numbers, classes), 'tset': 1}", "unknown 'tset'. Did you mean test"),
        ("return {'train': (numbers, classes), 'task': 'class'}", "unknown task 'class'. Did you mean classification"),
        (
            "return {'train': (numbers, classes), 'test': (numbers, classes + 1)}",
            "a class that train does not have: '4'",
        ),
        ("return {'train': (numbers, classes), 'test': (numbers[:, :3], classes)}", "inputs of test have the shape"),
        ("return {'train': (words, classes), 'test': (numbers, classes)}", "train has texts, and test has numbers"),
        ("return {'train': (numbers, classes), 'classes': ['a', 'b']}", "go from 0 to 3, with 2 classes"),
        ("return {'train': (numbers, classes), 'classes': ['a', 'b', 'a', 'c']}", "'classes' names 'a' twice"),
        ("return [(1, 2, 3)] * 5", "item 0 is a tuple of 3"),
        ("1 / 0", r"fails: ZeroDivisionError: division by zero \(mine.py line \d+\)"),
        ("raise SystemExit(2)", "fails: SystemExit"),
        ("return (numbers[i] / (3 - i), i) if i else 0", "fails: NameError"),
    ],
)
def test_wrong_values_are_refused_in_words(load, body, words):
    with pytest.raises(UserError, match=words):
        load(body)


def test_arguments_that_are_wrong_are_named(load, tmp_path):
    with pytest.raises(UserError, match=r"takes no argument 'cuont'. Did you mean count"):
        load("return 1", "count=1", cuont=3)
    with pytest.raises(UserError, match=r"needs count\. Set it: --data.args '{\"count\": …}'"):
        load("return 1", "count")
    with pytest.raises(UserError, match=r"has no function 'dat'. Did you mean data"):
        load_own(str(tmp_path / "mine.py"), "dat", {})
    with pytest.raises(UserError, match=r"is a RandomState|is a ndarray"):
        load_own(str(tmp_path / "mine.py"), "classes", {})


def test_the_error_of_a_dataset_names_the_item(load):
    body = """
class Mine(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return pixels[i], 1 // (7 - i)
return Mine()
"""
    with pytest.raises(UserError, match="item 7 failed: ZeroDivisionError"):
        load(body.strip())


def test_a_dataset_without_a_length_is_refused_before_it_is_read(load):
    body = """
class Mine(Dataset):
    def __getitem__(self, i):
        raise SystemExit(i)
return Mine()
"""
    with pytest.raises(UserError, match=r"train is a Mine with no __len__.*Give it a __len__"):
        load(body.strip())


def test_a_failure_keeps_the_prepared_data(load, tmp_path):
    load("return numbers, classes")
    name, cache = f"{tmp_path / 'mine.py'}:data", tmp_path / "cache"
    before = fetch(name, cache)
    good = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(good.replace("return numbers", "return 1 / 0"))
    with pytest.raises(UserError):
        fetch(name, cache)
    (tmp_path / "mine.py").write_text(good)
    made = (before.folder / "manifest.json").stat().st_mtime_ns
    assert fetch(name, cache) == before
    assert (before.folder / "manifest.json").stat().st_mtime_ns == made
