"""Data sets by name: found by file name, fetched, decoded once into arrays that are mapped into memory."""

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from pydantic import ValidationError

from components import files
from components.config import modules_in
from components.data import disk
from components.data.splits import Splits
from components.errors import ConfigError, UserError, nearest
from components.refs import DataRef, FileRef

DATASETS = Path(__file__).with_name("datasets")

FORMAT = 1
"""Of what is in the cache. Another number has everything prepared anew."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def names(datasets: Path = DATASETS) -> list[str]:
    """List the data sets: one file each, not imported."""
    return modules_in(datasets)


def fetch(name: str, cache: Path, datasets: Path = DATASETS) -> DataRef:
    """Have the data set prepared in ``cache/name``, and say what it is.

    What is there and intact is not touched, so the folder may be read-only and shared. Damaged or
    missing arrays are made again, from the downloads where these are intact.

    Raises:
        ConfigError: there is no such data set.
        UserError: it cannot be had, is malformed, or the disk will not take it.
    """
    if name not in names(datasets):
        raise ConfigError(f"There is no data set called {name!r}.", nearest(name, names(datasets)))
    if ready := prepared(name, cache, datasets):
        return ready
    folder = cache.absolute() / name
    disk.make_folder(folder)
    with disk.locked(folder / ".lock", name):
        return prepared(name, cache, datasets) or _prepare(name, datasets / f"{name}.py", folder)


def prepared(name: str, cache: Path, datasets: Path = DATASETS) -> DataRef | None:
    """Say what the data set is if it is in the cache and intact."""
    source = datasets / f"{name}.py"
    return _prepared(cache.absolute() / name, _definition(source)) if source.is_file() else None


def _definition(source: Path) -> str:
    # The whole file: a class renamed or another split is another data set. A mere comment costs a few seconds of
    # decoding once.
    return hashlib.sha256(source.read_bytes()).hexdigest()


def _prepared(folder: Path, definition: str) -> DataRef | None:
    """Return what the manifest tells if all of it is still true.

    The files are hashed each time (0.1 s for 55 MB): size and time of change would not show a page
    that a failing disk or a crash left empty.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        if (manifest["format"], manifest["definition"]) != (FORMAT, definition):
            return None
        digests = {name: FileRef.of(_array_path(folder, name)).sha256 for name in ARRAYS}
        ref = DataRef(**manifest["data"], folder=folder)
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return ref if digests == manifest["files"] and ref.sha256 == _digest(digests) else None


def _prepare(name: str, source: Path, folder: Path) -> DataRef:
    module = _import(name, source)
    splits: Splits = module.load(folder / "downloads")
    classes = tuple(module.CLASSES)
    _check(name, splits, len(classes))

    # First of all: whoever is killed from here on leaves no manifest that speaks of other files.
    with disk.writing(folder):
        (folder / "manifest.json").unlink(missing_ok=True)
        files.sync_folder(folder)
    digests = {}
    for array in ARRAYS:
        path = _array_path(folder, array)
        _save(path, getattr(splits, array))
        digests[array] = FileRef.of(path).sha256

    mean, std = channel_statistics(splits.train_images)
    _, channels, height, width = splits.train_images.shape
    ref = DataRef(
        name=name,
        folder=folder,
        sha256=_digest(digests),
        source=module.SOURCE,
        classes=classes,
        channels=channels,
        height=height,
        width=width,
        train_size=len(splits.train_images),
        test_size=len(splits.test_images),
        mean=mean,
        std=std,
    )
    # Without the folder, so that a cache can be moved, or mounted elsewhere.
    data = ref.model_dump(mode="json", exclude={"folder"})
    manifest = {"format": FORMAT, "definition": _definition(source), "data": data, "files": digests}
    with disk.new_file(folder / "manifest.json") as file:
        file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    return ref


def channel_statistics(images_NCHW: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel of uint8 pixels scaled to 0…1.

    Counted in whole numbers, so that the result is the same on every machine.
    """
    values = range(256)
    means, deviations = [], []
    for channel in range(images_NCHW.shape[1]):
        counts = np.zeros(256, np.int64)
        for start in range(0, len(images_NCHW), 4096):  # bincount makes an int64 of every pixel
            counts += np.bincount(images_NCHW[start : start + 4096, channel].ravel(), minlength=256)
        pixels = int(counts.sum())
        total = sum(value * int(count) for value, count in zip(values, counts, strict=True))
        squares = sum(value * value * int(count) for value, count in zip(values, counts, strict=True))
        means.append(total / (255 * pixels))
        deviations.append((squares * pixels - total * total) ** 0.5 / (255 * pixels))
    return tuple(means), tuple(deviations)


def _import(name: str, source: Path) -> ModuleType:
    """Import one data set's file, from wherever it lies."""
    module_name = f"components.data.datasets.{name}"
    spec = importlib.util.spec_from_file_location(module_name, source)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{source} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look here for the module they stand in
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _check(name: str, splits: Splits, classes: int) -> None:
    """Refuse arrays that are not what everything after this relies on."""
    faults = []
    for split in ("train", "test"):
        images: Any = getattr(splits, f"{split}_images")
        labels: Any = getattr(splits, f"{split}_labels")
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape:
            faults.append(f"{split} images are {images.dtype} {images.shape}, not uint8 (N, C, H, W)")
        elif labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            faults.append(f"{split} labels are {labels.dtype} {labels.shape}, not int64 ({len(images)},)")
        elif not 0 <= labels.min() <= labels.max() < classes:
            faults.append(f"{split} labels go from {labels.min()} to {labels.max()}, with {classes} classes")
    if not faults and splits.train_images.shape[1:] != splits.test_images.shape[1:]:
        faults.append(f"images of {splits.train_images.shape[1:]} and {splits.test_images.shape[1:]}")
    if faults:
        raise UserError(f"The data set {name} is malformed: {'; '.join(faults)}.", "Mend its source or its file.")


def _save(path: Path, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    with disk.new_file(path, array.nbytes) as file:
        # numpy.save writes past Python's file object, and a full disk then has no error number to know it by.
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _array_path(folder: Path, array: str) -> Path:
    return folder / f"{array}.npy"


def _digest(digests: dict[str, str]) -> str:
    return hashlib.sha256("".join(digests[array] for array in ARRAYS).encode()).hexdigest()
