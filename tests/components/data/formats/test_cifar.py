"""CIFAR's tar files are read without unpacking; other files are refused."""

import hashlib
import io
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from torchmill.components.data.datasets import cifar10, cifar100
from torchmill.components.errors import UserError

RNG = np.random.RandomState(0)


def records(count: int, label_bytes: int, classes: int) -> np.ndarray:
    rows = RNG.randint(0, 256, (count, label_bytes + 3072)).astype(np.uint8)
    rows[:, label_bytes - 1] = np.arange(count) % classes
    return rows


def members(dataset) -> dict[str, np.ndarray]:
    if dataset is cifar100:
        return {f"cifar-100-binary/{split}.bin": records(200, 2, 100) for split in ("train", "test")}
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    return {f"cifar-10-batches-bin/{name}.bin": records(20, 1, 10) for name in names}


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publish a tar file with given members on a mirror."""

    def put(dataset, contents: dict[str, bytes], gz: bool = True) -> None:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz" if gz else "w") as tar:
            for name, content in contents.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        file = replace(dataset.FILE, gzip_sha256=hashlib.sha256(packed.getvalue()).hexdigest())
        monkeypatch.setattr(dataset, "FILE", file)
        (tmp_path / "mirror" / file.dataset).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / file.path).write_bytes(packed.getvalue())
        monkeypatch.setenv("TORCHMILL_MIRROR", (tmp_path / "mirror").as_uri())

    return put


@pytest.mark.parametrize("dataset", [cifar10, cifar100])
def test_records_become_images_and_labels(dataset, publish, tmp_path):
    held = members(dataset)
    publish(dataset, {name: rows.tobytes() for name, rows in held.items()})
    splits = dataset.load(tmp_path / "downloads")
    rows = np.concatenate([part for name, part in held.items() if "test" not in name])
    assert splits.train.inputs.shape == (len(rows), 3, 32, 32)
    assert np.array_equal(splits.train.inputs.reshape(len(rows), -1), rows[:, -3072:])
    assert np.array_equal(splits.train.labels, rows[:, -3073]) and splits.train.labels.dtype == np.int64
    assert splits.test.labels.max() == len(dataset.CLASSES) - 1
    assert [file.name for file in (tmp_path / "downloads").iterdir() if file.suffix == ".bin"] == []


def test_members_with_foreign_paths_are_ignored(publish, tmp_path):
    held = {name: rows.tobytes() for name, rows in members(cifar10).items()}
    publish(cifar10, {"../../escaped.bin": b"x", "/tmp/cifar-escaped.bin": b"x", **held})
    cifar10.load(tmp_path / "downloads")
    assert not list(tmp_path.rglob("escaped.bin"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda held: held.pop("cifar-10-batches-bin/data_batch_3.bin"), "it holds no .*data_batch_3.bin"),
        (
            lambda held: held.update({"cifar-10-batches-bin/test_batch.bin": b"short"}),
            "5 bytes are not records of 3,073",
        ),
    ],
)
def test_a_tar_file_that_is_incomplete_is_refused(publish, tmp_path, change, words):
    held = {name: rows.tobytes() for name, rows in members(cifar10).items()}
    change(held)
    publish(cifar10, held)
    with pytest.raises(UserError, match=words):
        cifar10.load(tmp_path / "downloads")


def test_other_files_than_gzipped_tar_are_refused(publish, tmp_path):
    publish(cifar10, {"a": b"b"}, gz=False)
    with pytest.raises(UserError, match="not the tar file"):
        cifar10.load(tmp_path / "downloads")


def test_another_file_than_the_published_one_is_refused(publish, tmp_path, monkeypatch):
    publish(cifar10, {name: rows.tobytes() for name, rows in members(cifar10).items()})
    monkeypatch.setattr(cifar10, "FILE", replace(cifar10.FILE, gzip_sha256="0" * 64))
    monkeypatch.setattr("torchmill.components.data.formats.cifar.MIRRORS", ())
    with pytest.raises(UserError, match="Nobody gave the cifar10"):
        cifar10.load(tmp_path / "downloads")
