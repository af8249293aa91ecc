"""What every data set must be, for all that are found."""

import importlib
import inspect

import numpy as np
import pytest

from components.data.datasets import digits
from components.data.fetch import fetch, names
from components.errors import UserError


@pytest.mark.parametrize("name", names())
def test_a_data_set_says_what_it_is_and_where_it_comes_from(name):
    dataset = importlib.import_module(f"components.data.datasets.{name}")
    assert "Licence:" in dataset.__doc__
    assert dataset.SOURCE.startswith("http")
    assert len(set(dataset.CLASSES)) == len(dataset.CLASSES) > 1
    assert list(inspect.signature(dataset.load).parameters) == ["downloads"]


def test_published_files_lie_below_their_data_sets_name_and_have_a_sha256_of_their_own():
    for name in names():
        files = getattr(importlib.import_module(f"components.data.datasets.{name}"), "FILES", None)
        digests = set()
        for file in vars(files).values() if files else ():
            assert file.dataset == name
            digests.add(bytes.fromhex(file.content_sha256 or file.gzip_sha256))
        assert not files or (len(digests), {len(digest) for digest in digests}) == (4, {32})


def test_the_digits_are_always_the_same(tmp_path):
    ref = fetch("digits", tmp_path)
    assert (ref.image_shape, ref.train_size, ref.test_size) == ((1, 28, 28), 1442, 355)
    # Whoever changes this changes every result that was ever had with it.
    assert ref.sha256 == "aab1b1178eb67d31c140e6bf8faeacb36235a0b676abc7c9cee6a60cb461e1ca"


def test_the_digits_test_split_is_a_fifth_of_each_class_and_apart_from_train():
    labels = digits.read_rows(digits.find_file())[:, 64]
    test = digits.choose_test(labels)
    for label in range(10):
        assert test[labels == label].sum() == (labels == label).sum() // 5


def test_a_grown_digit_is_what_torch_makes_of_it():
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
