"""A table becomes numbers or tokens; an error names the line."""

from pathlib import Path

import numpy as np
import pytest

from torchmill.components.data.fetch import fetch, read_columns, read_vocabulary
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.errors import UserError

RNG = np.random.RandomState(0)
NUMBERS = "a,b,label\n" + "".join(f"{n / 7:.3f},{-n},{'yes' if n % 3 else 'no'}\n" for n in range(60))
FLOWERS = "size,color,y\n" + "".join(f"{n},{('red', 'blue', 'white')[n % 3]},{n % 2}\n" for n in range(30))
TEXTS = "text,label\n" + "".join(f'"word{n}, and ""quoted""\nsecond line",{n % 2}\n' for n in range(40))


def load(tmp_path: Path, text: str | bytes | dict[str, str], /, name="own.csv", **args):
    if isinstance(text, dict):
        place = tmp_path / "folder"
        place.mkdir(exist_ok=True)
        for file, content in text.items():
            (place / file).write_text(content)
    else:
        place = tmp_path / name
        place.write_bytes(text if isinstance(text, bytes) else text.encode())
    ref = fetch(f"csv:{place}", tmp_path / "cache", args=args)
    return ref, {file.stem: np.load(file) for file in ref.folder.glob("*.npy")}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_numbers_with_a_label(tmp_path, delimiter):
    ref, arrays = load(tmp_path, NUMBERS.replace(",", delimiter))
    assert (ref.kind, ref.task, ref.shape, ref.classes) == ("numbers", "classification", (2,), ("no", "yes"))
    assert (ref.train_size, ref.test_size) == (48, 12)
    rows = np.concatenate([arrays["train_inputs"], arrays["test_inputs"]])
    assert sorted(rows[:, 1].tolist()) == [float(-n) for n in range(59, -1, -1)]


def test_texts_with_a_label_keep_commas_quotes_and_lines(tmp_path):
    ref, arrays = load(tmp_path, TEXTS)
    assert (ref.kind, ref.classes) == ("tokens", ("0", "1"))
    assert ref.validation_size and ref.train_size + ref.validation_size + ref.test_size == 40
    text = read_vocabulary(ref).decode(arrays["train_inputs"][0].tolist())
    assert text.endswith(', and " quoted " second line')


def test_names_become_ones_and_zeros_that_train_alone_decides(tmp_path):
    ref, arrays = load(tmp_path, {"train.csv": FLOWERS, "test.csv": "size,color,y\n1,red,0\n2,green,1\n"})
    assert ref.shape == (4,)
    assert arrays["test_inputs"].tolist() == [[1, 0, 1, 0], [2, 0, 0, 0]]
    assert read_columns(ref) == Columns((Column("size", median=14.5), Column("color", ("blue", "red", "white"))))


def test_names_of_columns_are_part_of_the_digest(tmp_path):
    named, _ = load(tmp_path, NUMBERS)
    digest = named.sha256
    assert (read_columns(named) or Columns(())).names == ("a", "b")
    renamed, _ = load(tmp_path, NUMBERS.replace("a,b,label", "a,c,label"))
    assert (read_columns(renamed) or Columns(())).names == ("a", "c") and renamed.sha256 != digest
    texts, _ = load(tmp_path, TEXTS.replace("text", "review"))
    assert read_columns(texts) == Columns.called(["review"])


@pytest.mark.parametrize(
    ("label", "task", "classes", "dtype"),
    [
        ("color", "classification", ("blue", "red", "white"), np.int64),
        ("grade", "classification", ("1", "2", "10"), np.int64),
        ("price", "regression", ("price",), np.float32),
        ("wet,cold", "multilabel", ("wet", "cold"), np.uint8),
        ("price,size", "regression", ("price", "size"), np.float32),
    ],
)
def test_the_task_follows_from_the_label(tmp_path, label, task, classes, dtype):
    rows = "".join(
        f"{n},{n / 3:.2f},{('red', 'blue', 'white')[n % 3]},{(1, 2, '10.0')[n % 3]},{n % 2},{n // 2 % 2}\n"
        for n in range(40)
    )
    ref, arrays = load(tmp_path, "size,price,color,grade,wet,cold\n" + rows, label=label)
    assert (ref.task, ref.classes, arrays["train_labels"].dtype) == (task, classes, dtype)


def test_the_task_may_be_set(tmp_path):
    assert load(tmp_path, FLOWERS, task="regression")[0].task == "regression"


def test_equal_rows_stay_on_one_side(tmp_path):
    _, arrays = load(tmp_path, NUMBERS + NUMBERS.split("\n", 1)[1])
    assert not {row.tobytes() for row in arrays["train_inputs"]} & {row.tobytes() for row in arrays["test_inputs"]}


def test_a_second_file_is_the_test_split_and_its_change_is_noticed(tmp_path):
    second = tmp_path / "second.csv"
    second.write_text("b,a,label\n5,6,no\n")
    ref, arrays = load(tmp_path, NUMBERS, test=str(second))
    assert arrays["test_inputs"].tolist() == [[6, 5]]
    second.write_text("b,a,label\n5,6,no\n7,8,yes\n")
    again, _ = load(tmp_path, NUMBERS, test=str(second))
    assert (ref.test_size, again.test_size) == (1, 2)


def test_the_numbers_of_rows_that_pandas_writes_are_no_feature(tmp_path):
    numbered = "".join(f"{n if n >= 0 else ''},{line}\n" for n, line in enumerate(NUMBERS.splitlines(), -1))
    assert load(tmp_path, numbered)[0].shape == (2,)


@pytest.mark.parametrize(
    ("text", "args", "words"),
    [
        ("", {}, "is empty"),
        ("a,b\n", {}, "names of columns, and no rows"),
        ("1,2\n3,4\n", {}, "begins with numbers, and not with names"),
        ("0.5,0.1,yes\n0.2,0.3,no\n", {}, "begins with '0.5' and '0.1', which look like a row"),
        ("5,yes\n7,no\n", {}, "begins with '5', which look like a row"),
        ("a,a,y\n1,2,3\n", {}, "two columns called 'a'"),
        ("a;y\n" + "0,5;b\n-1,25;c\n" * 20, {}, "line 2: '0,5' in the column 'a' is a number written with a comma"),
        ('a,y\n"2,000",b\n1500,c\n', {}, "line 2: '2,000' in the column 'a' is a number written with a comma"),
        ("a;y\n" + "5;0,5\n2;1,25\n" * 20, {}, "line 2: '0,5' in the column 'y' is a number written with a comma"),
        ("a,y\n" + "1,p\n2,q\n3,p|q\n4,p|r\n5,\n" * 9, {}, "for example 'p|q', seem to hold several labels.*\"p,q,r\""),
        ("just text\nand more\n", {}, "one column alone"),
        (NUMBERS + "1,2\n", {}, "line 62 has 2 cells, and the first line 3"),
        (TEXTS + "only one cell\n", {}, "line 82 has 1 cells"),
        (NUMBERS + '"1,2,yes\n', {}, "line 62 can't be read"),
        (NUMBERS + "1,2,\n", {}, "line 62: the column 'label' has no value"),
        (NUMBERS + "1,x,yes\n", {}, "line 62: 'x' in the column 'b' is not a number"),
        (NUMBERS + "1,inf,yes\n", {}, "line 62: 'inf' in the column 'b' is not a number"),
        (NUMBERS.encode() + b"1,2,\xe4\n", {}, "line 62 is not UTF-8"),
        (NUMBERS.replace("no", "yes"), {}, "all labels are the same, 'yes'"),
        (NUMBERS, {"label": "lable"}, "no column 'lable'. Did you mean label"),
        (NUMBERS, {"text": "txt"}, "no column 'txt' beside the label"),
        (NUMBERS, {"ignore": "c"}, "no column 'c'"),
        (NUMBERS, {"ignore": "a,b"}, "no column beside the label"),
        (NUMBERS, {"task": "regress"}, "Unknown task 'regress'. Did you mean regression"),
        (NUMBERS, {"task": "regression"}, "'yes' in the column 'label' is not a number|'no' in the column"),
        (NUMBERS, {"label": "a", "task": "classification"}, "different labels of 60 samples are too many classes"),
        (NUMBERS, {"test": "nowhere.csv"}, "Cannot read .*nowhere.csv"),
        ({"train.csv": NUMBERS, "test.csv": "a,b,label\n1,2,maybe\n"}, {}, "test has a class that train does not have"),
        ({"train.csv": NUMBERS, "test.csv": "a,label\n1,no\n"}, {}, "test.csv has no column 'b', as train.csv has"),
        ({"other.csv": NUMBERS}, {}, "has no train.csv"),
    ],
)
def test_a_table_that_is_wrong_is_refused_with_the_line(tmp_path, text, args, words):
    with pytest.raises(UserError, match=words):
        load(tmp_path, text, **args)


def test_columns_may_be_called_by_numbers_that_count_up(tmp_path):
    assert load(tmp_path, NUMBERS.replace("a,b,", "0,1,"))[0].shape == (2,)
    assert load(tmp_path, NUMBERS.replace("a,b,", "2020,2025,"))[0].shape == (2,)


def test_joined_names_may_be_classes_if_the_task_says_so(tmp_path):
    text = "a,y\n" + "".join(f"{n},{('p', 'q', 'p|q', 'q|p')[n % 4]}\n" for n in range(36))
    assert load(tmp_path, text, task="classification")[0].classes == ("p", "p|q", "q", "q|p")


def test_no_such_table(tmp_path):
    (tmp_path / "data.csv").write_text(NUMBERS)
    with pytest.raises(UserError, match=r"There is no .*daat.csv. Did you mean data.csv"):
        fetch(f"csv:{tmp_path / 'daat.csv'}", tmp_path / "cache")


def test_a_failure_keeps_the_prepared_data(tmp_path):
    ref, before = load(tmp_path, NUMBERS)
    with pytest.raises(UserError):
        load(tmp_path, NUMBERS + "1\n")
    assert all(np.array_equal(np.load(ref.folder / f"{name}.npy"), array) for name, array in before.items())
    assert (ref.folder / "manifest.json").exists()
