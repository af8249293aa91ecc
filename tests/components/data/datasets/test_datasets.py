"""Contract tests of every data set."""

import importlib
import inspect

import numpy as np
import pytest

from torchmill.components.data.config import DATASETS
from torchmill.components.data.datasets import digits
from torchmill.components.data.downloads.published_file import PublishedFile
from torchmill.components.data.fetch import fetch, names, read_vocabulary
from torchmill.components.data.formats import idx
from torchmill.components.data.samples import read_test, read_training
from torchmill.components.errors import UserError


@pytest.mark.parametrize("name", names())
def test_a_data_set_says_what_it_is_and_where_it_comes_from(name):
    dataset = importlib.import_module(f"torchmill.components.data.datasets.{name}")
    assert dataset.__doc__.partition(":")[0].strip()
    parameters = inspect.signature(dataset.load).parameters
    asked = DATASETS[name].source.functions["load"]
    defaults = {name: parameter.default is not parameter.empty for name, parameter in parameters.items()}
    assert {name: bool(argument.default) for name, argument in asked.items()} == defaults
    if "path" in asked:  # the user's own files name their classes
        assert not hasattr(dataset, "CLASSES")
    else:
        assert "Licence:" in dataset.__doc__
        assert dataset.SOURCE.startswith("http")
        assert len(set(dataset.CLASSES)) == len(dataset.CLASSES) > 1


def published(name: str) -> list[PublishedFile]:
    """The files that a data set names as its authors published them."""
    held = vars(importlib.import_module(f"torchmill.components.data.datasets.{name}"))
    files = [value for value in held.values() if isinstance(value, PublishedFile)]
    return files + [file for value in held.values() if isinstance(value, idx.IdxFiles) for file in vars(value).values()]


def test_published_files_lie_below_their_data_sets_name_and_have_a_sha256_of_their_own():
    assert published("mnist") and published("cifar10")
    files = {name: published(name) for name in names()}
    assert all(file.dataset == name for name, held in files.items() for file in held)
    digests = [file.content_sha256 or file.gzip_sha256 for held in files.values() for file in held]
    assert len(set(digests)) == len(digests) and {len(bytes.fromhex(one)) for one in digests} == {32}


def test_the_digits_are_always_the_same(tmp_path):
    ref = fetch("digits", tmp_path)
    assert (ref.shape, ref.train_size, ref.test_size) == ((1, 28, 28), 1442, 355)
    # Whoever changes this changes every result that was ever had with it.
    assert ref.sha256 == "aab1b1178eb67d31c140e6bf8faeacb36235a0b676abc7c9cee6a60cb461e1ca"


def test_the_digits_test_split_is_a_fifth_of_each_class_and_apart_from_train():
    labels = digits.read_rows(digits.find_file())[:, 64]
    test = digits.choose_test(labels)
    for label in range(10):
        assert test[labels == label].sum() == (labels == label).sum() // 5


def test_a_resized_digit_equals_torchs():
    import torch

    images = digits.read_rows(digits.find_file())[:50, :64].reshape(-1, 8, 8)
    grown = digits.grow(images)
    assert (grown.dtype, grown.shape) == (np.uint8, (50, 28, 28))
    scaled = torch.from_numpy(images).double()[:, None] * (255 / 16)
    expected = torch.nn.functional.interpolate(scaled, size=(28, 28), mode="bilinear")[:, 0].numpy()
    assert np.abs(grown - expected).max() <= 0.5 + 1e-9


def test_other_digits_are_refused(tmp_path):
    (tmp_path / "digits.csv.gz").write_bytes(b"nothing")
    for path in (tmp_path / "digits.csv.gz", tmp_path / "missing"):
        with pytest.raises(UserError, match="does not hold the digits"):
            digits.read_rows(path)


def test_names_are_tokens_and_each_name_is_in_one_split(datasets, tmp_path, monkeypatch):
    if not (datasets / "names").is_dir():
        pytest.skip(f"no names in {datasets}")
    monkeypatch.setenv("TORCHMILL_MIRROR", datasets.absolute().as_uri())
    ref = fetch("names", tmp_path)
    assert (ref.kind, ref.task, len(ref.classes), ref.shape) == ("tokens", "classification", 18, (32,))
    vocabulary = read_vocabulary(ref)
    assert len(vocabulary.tokens) == ref.vocabulary_size
    splits = dict(
        zip(("train", "validation", "test"), (*read_training(ref.with_split(0.1, seed=0)), read_test(ref)), strict=True)
    )
    assert [len(split) for split in splits.values()] == [ref.train_size, ref.validation_size, ref.test_size]
    texts = {
        name: {vocabulary.decode(row).casefold() for row in split.inputs.tolist()} for name, split in splits.items()
    }
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    assert all(set(split.labels.tolist()) == set(range(18)) for split in splits.values())
    # Whoever changes this changes every result that was ever had with it.
    assert ref.sha256 == "2a95b8efb5765b63711e87d062219ffbeeedec11ab05128f8a7d8d7ead113831"
