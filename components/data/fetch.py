"""Data sets by name: fetched and decoded once into arrays, which are cached on disk and mapped into memory."""

import contextlib
import hashlib
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from torchmill.components import fields, files, tasks
from torchmill.components.data.config import DataConfig, dataset_place
from torchmill.components.data.content import digests_file, row_digests
from torchmill.components.data.field_splits import FieldSplits
from torchmill.components.data.lost_cells import write_lost_cells
from torchmill.components.data.manifest import (
    FORMAT,
    SPLITS,
    begin,
    describe,
    digest_of,
    digest_of_digests,
    write_manifest,
)
from torchmill.components.data.origins import write_origins
from torchmill.components.data.splits import Split, Splits
from torchmill.components.encoding import columns, vocabulary
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import ConfigError, UserError, nearest, unknown_argument
from torchmill.components.reading.folders import stamps
from torchmill.components.refs import SPLIT, USUAL_SPLIT, DataRef, FileRef
from torchmill.components.settings.options import Room
from torchmill.components.state_files import read_json
from torchmill.components.user_code import source_code
from torchmill.components.user_code.reads import first_changed, recorded_reads
from torchmill.components.user_code.reference import source_file

logger = logging.getLogger("torchmill")

DATASETS = Path(__file__).with_name("datasets")

VOCABULARY, COLUMNS = vocabulary.FILE, columns.FILE
RESERVED = {"downloads", "path", "split"}
"""Arguments of ``load`` that a user doesn't set."""


def names(datasets: Path = DATASETS) -> list[str]:
    """Return the names of the data sets: one file each, not imported."""
    return Room(datasets).names()


def arguments(config: DataConfig, datasets: Path = DATASETS) -> dict[str, Any]:
    """Return the arguments for a data set's ``load``: the configuration's, and settings that it takes by name.

    Raises:
        ConfigError: ``load`` takes no such argument.
    """
    kind, path = dataset_place(config.name)
    settings = {"validation_fraction": config.validation_fraction}
    cut = {SPLIT: config.split} if config.split != USUAL_SPLIT else {}
    if path and kind not in names(datasets):  # the user's own function: checked when it is imported
        return {**config.args, **cut}
    option = Room(datasets)[kind]
    parameters = option.source.functions["load"]
    if cut and "split" not in parameters and not option.constant("ORDERED", False):
        raise ConfigError(
            f"--data.split {config.split} is for your own data and for time series; {kind} is cut in its own way."
        )
    cut = cut if "split" in parameters else {}
    return {name: value for name, value in settings.items() if name in parameters} | _validated(
        kind, {**config.args, **cut}, datasets
    )


def _validated(kind: str, args: Mapping[str, Any], datasets: Path) -> dict[str, Any]:
    """Return arguments for a data set's ``load`` in the types of its annotations.

    Raises:
        ConfigError: an argument is unknown, of another type or out of range.
    """
    option = Room(datasets)[kind]
    cut = {name: value for name, value in args.items() if name == SPLIT}
    args = {name: value for name, value in args.items() if name != SPLIT}
    for name in args:
        if name in RESERVED or name not in option.source.functions["load"]:
            accepted = option.source.functions["load"].keys() - RESERVED
            raise ConfigError(*unknown_argument(kind, name, accepted))
    try:
        return option.validated(args, "load") | cut
    except ValueError as error:
        raise ConfigError(f"{kind}: {error}.", "Set them by --data.args; `torchmill datasets` shows them.") from None


def fetch(
    name: str,
    cache: Path,
    datasets: Path = DATASETS,
    args: Mapping[str, Any] = {},
    fresh: bool = False,
) -> DataRef:
    """Return a data set, and prepare it in ``cache/name`` unless it is there and intact.

    An intact folder is only read, so it may be shared and read-only. Damaged or missing arrays are prepared again, from
    the downloads if these are intact; and the user's own function is called again if files that it read have changed.

    Args:
        args: arguments for its ``load``.
        fresh: call the user's own function again.

    Raises:
        ConfigError: there is no such data set.
        UserError: the data can't be downloaded, is malformed, or the disk is full.

    Example:
        >>> fetch("mnist", Path("~/.cache/torchmill").expanduser()).train_size
        60000
    """
    if not dataset_place(name)[1] and name not in names(datasets):
        raise ConfigError(f"There is no data set called {name!r}.", nearest(name, names(datasets)))
    if not _is_users(name, datasets):
        args = _validated(dataset_place(name)[0], args, datasets)
    must_reload = fresh and _is_users(name, datasets)
    if not must_reload and (ready := prepared(name, cache, datasets, args)):
        return ready if ready.digests_sha256 else _with_digests(ready)
    folder = _folder(name, cache, args)
    files.make_folder(folder)
    with files.locked(folder / ".lock", subject=name):
        ready = None if must_reload else prepared(name, cache, datasets, args)
        if not ready and (changed := _changed_read(folder)):
            logger.info("data  %s: %s has changed since it was read: the function is called again", name, changed)
        return ready or _prepare(
            name, _loader(name, datasets, args, folder), _definition(name, datasets, args), folder, args
        )


def prepared(
    name: str,
    cache: Path,
    datasets: Path = DATASETS,
    args: Mapping[str, Any] = {},
) -> DataRef | None:
    """Return a data set from the cache; None unless it is intact and its definition has not changed."""
    try:
        definition = _definition(name, datasets, args)
    except (OSError, ValueError, SyntaxError):
        return None
    return _prepared(_folder(name, cache, args), definition)


def _is_users(name: str, datasets: Path) -> bool:
    kind, path = dataset_place(name)
    return bool(path) and kind not in names(datasets)


def _folder(name: str, cache: Path, args: Mapping[str, Any]) -> Path:
    kind, path = dataset_place(name)
    if not path and not args:
        return cache.absolute() / name
    place = str(Path(path).expanduser().absolute()) if path else ""
    digest = hashlib.sha256(json.dumps([kind, place, args], sort_keys=True, default=str).encode()).hexdigest()
    return cache.absolute() / f"{Path(kind).stem}-{digest[:16]}"


def _definition(name: str, datasets: Path, args: Mapping[str, Any]) -> str:
    """Return the digest of a data set's definition.

    It covers the data set's file, and a listing of its path and of the files that its arguments name; or the user's
    code.
    """
    kind, path = dataset_place(name)
    paths = [os.path.expanduser(value) for value in args.values() if isinstance(value, str)]  # noqa: PTH111
    if _is_users(name, datasets):
        definitions = json.dumps(source_code.closure(source_file(kind)).definitions)
        return _with_stamps(hashlib.sha256(definitions.encode()), filter(os.path.exists, paths))
    # The whole file: a renamed class or another split makes another data set. Even a changed comment decodes anew,
    # which takes seconds.
    digest = hashlib.sha256((datasets / f"{kind}.py").read_bytes())
    return _with_stamps(digest, (path, *filter(os.path.isfile, paths)) if path else ())


def _with_stamps(digest: "hashlib._Hash", places: Iterable[str]) -> str:
    """Return a digest that also covers names, sizes and times of all files at some places."""
    for place in places:
        for line in stamps(Path(place).expanduser()):
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _changed_read(folder: Path) -> str:
    """Return the first file or folder that the user's function read and that has changed since; empty if none has."""
    try:
        return first_changed((read_json(folder / "manifest.json", dict) or {}).get("reads", ()))
    except (ValueError, TypeError):
        return ""


def _loader(
    name: str, datasets: Path, args: Mapping[str, Any], folder: Path
) -> tuple[Any, Callable[[], Splits | FieldSplits]]:
    """Return the data set's module, which may have ``CLASSES`` and ``SOURCE``, and a function that loads its splits."""
    kind, path = dataset_place(name)
    if _is_users(name, datasets):
        from torchmill.components.data.formats.user_function import load_own

        return None, lambda: load_own(kind, path, args)
    module = Room(datasets).load(kind)
    arguments = {name.removeprefix("data.") if name == SPLIT else name: value for name, value in args.items()}
    parameters = inspect.signature(module.load).parameters
    if "downloads" in parameters:
        arguments["downloads"] = folder / "downloads"
    if path:
        arguments["path"] = Path(path).expanduser().absolute()
    return module, lambda: module.load(**arguments)


def _prepared(folder: Path, definition: str) -> DataRef | None:
    """Return the manifest's data set, if its files are intact.

    The files are hashed each time (0.1 s for 55 MB): size and time would not show a page that a crash or a failing
    disk left empty.
    """
    manifest = read_json(folder / "manifest.json", dict)
    if manifest is None:
        return None
    try:
        if (manifest["format"], manifest["definition"]) != (FORMAT, definition):
            return None
        if first_changed(manifest.get("reads", ())):
            return None
        ref = DataRef(**manifest["data"], folder=folder)
        digests = {name: FileRef.of(folder / name).sha256 for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        return None
    return ref if digests == manifest["files"] and ref.sha256 == digest_of(digests) else None


def _prepare(
    name: str,
    loader: tuple[Any, Callable[[], Splits | FieldSplits]],
    definition: str,
    folder: Path,
    args: Mapping[str, Any],
) -> DataRef:
    """Load a data set, and write its files and its manifest."""
    module, load = loader
    with recorded_reads() if module is None else contextlib.nullcontext() as reads:
        splits = load()
    places = reads.places(source_file(dataset_place(name)[0])) if reads else []
    if isinstance(splits, FieldSplits):
        return _prepare_fields(name, splits, definition, folder, args, places)
    classes = tuple(splits.classes or module.CLASSES)
    kind = _check(name, splits, len(classes))
    begin(folder)
    # Before the arrays are saved: one that is mapped from a file may be renamed.
    mean, std = fields.field(kind).statistics(splits.train.inputs)
    targets = splits.target_statistics()
    shape = splits.train.inputs.shape[1:]
    if splits.vocabulary:
        shape = (splits.vocabulary.max_length,)
    digests = _write_files(splits, folder)
    ref = DataRef(
        name=name,
        args=dict(args),
        folder=folder,
        sha256=digest_of(digests),
        digests_sha256=digest_of_digests(digests),
        source=splits.source or module.SOURCE,
        kind=kind,
        task=splits.task,
        shape=shape,
        classes=classes,
        train_size=len(splits.train),
        validation_size=len(splits.validation) if splits.validation else 0,
        test_size=len(splits.test),
        mean=mean,
        std=std,
        **targets,
        vocabulary_size=len(splits.vocabulary.tokens) if splits.vocabulary else 0,
        rules=splits.rules,
        notes=splits.notes,
    )
    describe(ref, definition, digests, places)
    return ref


def _prepare_fields(
    name: str, splits: FieldSplits, definition: str, folder: Path, args: Mapping[str, Any], places: list[Any]
) -> DataRef:
    """Write the files of a data set of named fields, and its manifest."""
    begin(folder)
    digests = {path.name: FileRef.of(path).sha256 for path in splits.write(folder)}
    beside = digest_of_digests(digests)
    facts: dict[str, Any] = splits.facts()
    ref = DataRef(name=name, args=dict(args), folder=folder, sha256=digest_of(digests), digests_sha256=beside, **facts)
    describe(ref, definition, digests, places)
    return ref


def _with_digests(data: DataRef) -> DataRef:
    """Add the samples' digests to data that an earlier version prepared, unless its folder is read-only."""
    try:
        with files.locked(data.folder / ".lock", subject=data.name):
            manifest = read_json(data.folder / "manifest.json", dict) or {}
            for split in (split for split in SPLITS if f"{split}_inputs.npy" in manifest["files"]):
                file = digests_file(data.folder, split)
                _save(file, row_digests(np.load(data.folder / f"{split}_inputs.npy", mmap_mode="r")))
                manifest["files"][file.name] = FileRef.of(file).sha256
            data = data.model_copy(update={"digests_sha256": digest_of_digests(manifest["files"])})
            manifest["data"]["digests_sha256"] = data.digests_sha256
            write_manifest(data.folder, manifest)
    except UserError as error:
        logger.debug("The digests of %s are computed each time: %s", data.name, error)
    return data


def _write_files(splits: Splits, folder: Path) -> dict[str, str]:
    """Write arrays, encoding and origins; return the files' digests by name."""
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    written = []
    for split, part in parts.items():
        for kind, array in (("inputs", part.inputs), ("labels", part.labels)) if part else ():
            written.append(folder / f"{split}_{kind}.npy")
            _save(written[-1], array)
        if part:
            written.append(digests_file(folder, split))
            _save(written[-1], row_digests(part.inputs) if part.digests is None else part.digests)
    for file_name, encoding in ((VOCABULARY, splits.vocabulary), (COLUMNS, splits.columns)):
        if encoding:
            written.append(folder / file_name)
            with files.new_file(written[-1]) as file:
                file.write(encoding.as_json().encode())
    written += write_lost_cells(folder, splits.lost_cells)
    written += [
        write_origins(folder, split, part.origins) for split, part in parts.items() if part and len(part.origins)
    ]
    return {path.name: FileRef.of(path).sha256 for path in written}


def read_vocabulary(data: DataRef) -> Vocabulary:
    """Return the vocabulary of a data set of tokens."""
    return Vocabulary.from_json((data.folder / VOCABULARY).read_text(encoding="utf-8"))


def read_columns(data: DataRef) -> Columns | None:
    """Return the columns of the table that a data set came from; None if it came from something else."""
    file = data.folder / COLUMNS
    return Columns.from_json(file.read_text(encoding="utf-8")) if file.is_file() else None


def _check(name: str, splits: Splits, classes: int) -> str:
    """Check the arrays' types, shapes and values; return the kind of inputs.

    Raises:
        UserError: the data set is malformed.
    """
    kind = fields.recognized(splits.train.inputs, splits.vocabulary is not None)
    faults = []
    parts = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    for split, part in parts.items():
        if part:
            if part.digests is not None and len(part.digests) != len(part):
                faults.append(f"{split} has {len(part)} samples and digests of {len(part.digests)}")
            if len(part.origins) not in (0, len(part)):
                faults.append(f"{split} has {len(part)} samples and origins of {len(part.origins)}")
            faults += [f"{split} {fault}" for fault in _faults(part, splits, kind, classes)]
    if not faults and not splits.vocabulary:
        shapes = {part.inputs.shape[1:] for part in parts.values() if part}
        if len(shapes) > 1:
            faults.append(f"inputs of {' and '.join(map(str, sorted(shapes)))}")
    width = splits.train.inputs.shape[1]
    if not faults and not splits.vocabulary and splits.columns and len(splits.columns.features) != width:
        faults.append(f"its columns are {len(splits.columns.features)} numbers, and its rows {width}")
    if faults:
        raise UserError(f"The data set {name} is malformed: {'; '.join(faults)}.", "Mend its source or its file.")
    return kind


def _faults(part: Split, splits: Splits, kind: str, classes: int) -> list[str]:
    tokens = len(splits.vocabulary.tokens) if splits.vocabulary else None
    if faults := fields.field(kind).faults(part.inputs, tokens):
        return faults
    return tasks.task(splits.task).faults(part.labels, len(part.inputs), classes)


def _save(path: Path, array: np.ndarray) -> None:
    if isinstance(array, np.memmap) and array.filename and Path(array.filename).parent == path.parent:
        array.flush()  # the array was written into this folder under another name
        with files.writing(path.parent):
            files.publish(Path(array.filename), path)
        return
    files.write_array(path, array)
