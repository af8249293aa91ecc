"""Predictions of a model of a task over named fields: arrays by name, or pictures, in; arrays by name out."""

import json
import logging
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.formats import image_files
from torchmill.components.errors import UserError, shortened
from torchmill.components.files import make_own_folder, write_arrays, write_atomically, write_text
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import Arrays, answers_of, fields_taken
from torchmill.components.onnx_model.model import read_checked
from torchmill.components.onnx_model.proto import metadata_of
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.field_answers import write_rows
from torchmill.components.prediction.field_drift import MOST, Likeness, likeness_of
from torchmill.components.prediction.field_inputs import (
    TEXTS,
    FieldInputs,
    gather_samples,
    is_of_sound,
    read_sounds,
)
from torchmill.components.prediction.inputs import MAX_PIXELS, check_places, files_in
from torchmill.components.prediction.own_inputs import is_own_function
from torchmill.components.reading import pictures
from torchmill.components.reading.rules import USUAL
from torchmill.components.reading.sound import SUFFIXES
from torchmill.components.wording import count

logger = logging.getLogger("torchmill")

BATCH = 64
FORMATS = (".npz", ".jsonl")
COMPLAINTS = 5
"""Number of unreadable files to log singly."""


@dataclass(frozen=True)
class FieldPredictions:
    """The written files and their counts."""

    output: Path
    """``.npz`` file with each output of the model, and the names of the samples in ``file`` if they have some; or
    ``.jsonl`` with an object for each sample."""
    masks: Path | None
    """Folder with a PNG of classes for each picture; None if the model answers no masks."""
    answered: int
    unreadable: int
    likeness: Likeness
    """How the inputs differ from training's."""
    drift: Path
    """JSON file with that."""


def is_of_fields(model_file: Path) -> bool:
    """Return True if a model was exported for a task over named fields.

    Raises:
        UserError: the file cannot be used, as ``read_checked`` says.
    """
    return names.FIELDS in metadata_of(read_checked(model_file))


def predict_fields(model_file: Path, places: Sequence[Path], output: Path | None = None) -> FieldPredictions:
    """Answer all samples in ``places``, and write the model's answers by name.

    Places are

    - an ``.npz`` file with an array for each input, or a ``.npy`` file if the model has one input;
    - pictures and folders of them, if the model has one input. Answers that are a class for each pixel are also written
      as PNG files, one for each picture, at its own size;
    - sounds, ``.wav``, and folders of them, if the model has one input;
    - texts: ``.txt`` with a text in each line, ``.jsonl`` with an object of inputs in each line, and CoNLL columns;
    - a function of the user's, ``file.py:function``, that returns fields: those of its test split if it gives splits.

    Args:
        output: ``.npz`` file of arrays, or ``.jsonl`` with an object for each sample, in which texts have spans or
            labels; ``predictions.jsonl`` of texts, else ``predictions.npz``, without it.

    Raises:
        UserError: a place can't be used, or an array does not fit the input of its name.

    Example:
        >>> predict_fields(Path("model.onnx"), [Path("photos")], Path("answers.npz"))  # doctest: +SKIP
    """
    metadata = metadata_of(read_checked(model_file))
    fields = fields_taken(metadata)
    in_words = is_of_sound(fields) or any(field.text for field in fields)
    output = output or Path("predictions.jsonl" if in_words else "predictions.npz")
    _check_output(output)
    check_places([place for place in places if not is_own_function(place)])
    if any(place.suffix.lower() in (".npz", ".npy") for place in places):
        arrays = _arrays(places, fields)
        _check_is_npz(output)
        answers = answers_of(open_session(model_file), arrays, BATCH)
        write_arrays(output, answers)
        samples = len(next(iter(arrays.values())))
        return FieldPredictions(output, None, samples, 0, *_drift(fields, arrays, output))
    if in_words or any(map(is_own_function, places)):
        if is_of_sound(fields) and not any(map(is_own_function, places)):
            inputs = read_sounds([*map(Path, files_in(places, SUFFIXES, "sounds"))], fields)
        else:
            inputs = gather_samples(_text_files(places), fields, metadata)
        return _of_samples(model_file, inputs, fields, metadata, output)
    _check_is_npz(output)
    files, arrays, unreadable = _pictures(places, fields)
    answers = answers_of(open_session(model_file), arrays, BATCH)
    write_arrays(output, {"file": np.array(files), **answers})
    masks = _write_masks(files, answers, fields[0], output.with_name(f"{output.stem}.masks"))
    return FieldPredictions(output, masks, len(files), unreadable, *_drift(fields, arrays, output))


def _drift(fields: Sequence[FieldRef], arrays: Arrays, output: Path) -> tuple[Likeness, Path]:
    """Compare inputs with training's, and write that beside the answers."""
    likeness, path = likeness_of(fields, arrays), output.with_name(f"{output.stem}.drift.json")
    write_text(path, json.dumps(likeness.note, indent=1))
    return likeness, path


def _check_output(output: Path) -> None:
    if output.suffix.lower() not in FORMATS:
        raise UserError(
            f"{output}: this model answers arrays by name.", f"Give --output FILE{' or FILE'.join(FORMATS)}."
        )
    if not output.parent.is_dir():
        raise UserError(f"There is no folder {output.parent} for {output.name}.", "Make it first.")


def _check_is_npz(output: Path) -> None:
    if output.suffix.lower() != ".npz":
        raise UserError(f"{output}: answers to arrays and pictures are arrays.", "Give --output FILE.npz.")


def _text_files(places: Sequence[Path]) -> list[Path]:
    """Return places with the files of texts in folders in place of these."""
    files: list[Path] = []
    for place in places:
        files += [place] if is_own_function(place) else map(Path, files_in([place], TEXTS, "texts"))
    return files


def _of_samples(
    model_file: Path, inputs: FieldInputs, fields: Sequence[FieldRef], metadata: Mapping[str, str], output: Path
) -> FieldPredictions:
    session = open_session(model_file)
    if output.suffix.lower() == ".jsonl":
        write_rows(session, inputs, metadata, output, BATCH)
    else:  # all are padded to the longest, so that answers are arrays
        answers = answers_of(session, inputs.arrays(range(len(inputs))), BATCH)
        write_arrays(output, {"file": np.array(inputs.names), **answers})
    for file, reason in [*inputs.unreadable.items()][:COMPLAINTS]:
        logger.warning("predict  %s %s: left out", file, reason)
    drift = _drift(fields, inputs.arrays(range(min(MOST, len(inputs)))), output)
    return FieldPredictions(output, None, inputs.samples, len(inputs.unreadable), *drift)


def _arrays(places: Sequence[Path], fields: Sequence[FieldRef]) -> Arrays:
    """Return the inputs in files of arrays.

    Raises:
        UserError: an input is missing, or an array does not fit.
    """
    if len(places) > 1:
        raise UserError(f"{len(places)} files of arrays at once.", "Give one .npz file, or one .npy file.")
    place = places[0]
    try:
        arrays_of_file = _loaded(place)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{place} is no file of arrays: {' '.join(str(error).split())}") from None
    expected_names = [field.name for field in fields]
    if "" in arrays_of_file:
        if len(fields) > 1:
            raise UserError(
                f"{place} is one array, and the model takes {', '.join(expected_names)}.", "Give an .npz file."
            )
        arrays_of_file = {expected_names[0]: arrays_of_file[""]}
    faults = [
        f"no array '{name}' (it has {shortened(list(arrays_of_file))})"
        for name in expected_names
        if name not in arrays_of_file
    ]
    arrays = {field.name: arrays_of_file[field.name] for field in fields if field.name in arrays_of_file}
    faults += [fault for field in fields if field.name in arrays for fault in _faults(field, arrays[field.name])]
    sizes = {name: len(values) for name, values in arrays.items() if values.ndim}
    if len(set(sizes.values())) > 1:
        faults.append(f"different numbers of samples: {', '.join(f'{name} {size:,}' for name, size in sizes.items())}")
    if faults:
        raise UserError(f"{place}: {'; '.join(faults)}.")
    return {field.name: _typed(field, arrays[field.name]) for field in fields}


def _loaded(place: Path) -> Arrays:
    """Return the arrays of an ``.npz`` file by name; that of a ``.npy`` file under an empty name."""
    if place.suffix.lower() == ".npy":
        return {"": np.load(place, allow_pickle=False)}
    with place.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def _faults(field: FieldRef, values: np.ndarray) -> list[str]:
    sides = field.shape[1:] if field.ragged else field.shape
    sides_of_values = values.shape[2:] if field.ragged else values.shape[1:]
    if values.ndim != 1 + len(field.shape) or sides_of_values != sides:
        expected = ", ".join(["N", *(["length"] if field.ragged else []), *map(str, sides)])
        return [f"'{field.name}' has the shape {values.shape}, not ({expected})"]
    if values.dtype.kind not in "biuf":
        return [f"'{field.name}' holds {values.dtype}, not numbers"]
    if field.kind == "ids" and values.size and not 0 <= values.min() <= values.max() < field.size:
        return [f"'{field.name}' holds {values.min()} to {values.max()}; ids go from 0 to {field.size - 1}"]
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return [f"'{field.name}' holds values that are no finite numbers"]
    return []


def _typed(field: FieldRef, values: np.ndarray) -> np.ndarray:
    kinds = {"ids": np.int64, "lengths": np.int64, "mask": np.uint8}
    return values.astype(kinds.get(field.kind, np.dtype(field.dtype)), copy=False)


def _pictures(places: Sequence[Path], fields: Sequence[FieldRef]) -> tuple[list[str], Arrays, int]:
    """Return the names of picture files, their pixels, and the number of files that can't be read."""
    images = [field for field in fields if field.kind == "image"]
    if len(images) != 1 or len(fields) != 1 or images[0].dtype != "uint8":
        takes = ", ".join(field.words() for field in fields)
        raise UserError(f"The model takes {takes}, not pictures alone.", "Give an .npz file with these arrays.")
    channels, height, width = images[0].shape
    if channels not in (1, 3, 4):
        raise UserError(f"The model takes images of {channels} channels.", "Give an .npz file: files have 1, 3 or 4.")
    files, pixels, unreadable = [], [], 0
    for file in files_in(places, pictures.SUFFIXES, "pictures"):
        read = image_files.read_pixels(Path(file), (channels, height, width), USUAL, MAX_PIXELS)
        if isinstance(read, str):
            unreadable += 1
            logger.warning("predict  %s %s: left out", file, read)
            continue
        files.append(file)
        pixels.append(read)
    if not files:
        raise UserError(f"None of {count(unreadable, 'file')} could be read.")
    return files, {images[0].name: np.stack(pixels)}, unreadable


def _write_masks(files: Sequence[str], answers: Arrays, image: FieldRef, folder: Path) -> Path | None:
    """Write the first answer that is a class for each pixel, a PNG for each picture at its own size."""
    masks = next(
        (values for values in answers.values() if values.dtype.kind in "iu" and values.shape[1:] == image.shape[1:]),
        None,
    )
    if masks is None:
        return None
    make_own_folder(folder)
    for number, (file, mask) in enumerate(zip(files, masks, strict=True)):
        with Image.open(file) as picture:
            upright = pictures.traits(picture).size
        scaled = _at_own_size(Image.fromarray(mask.astype(np.uint8)), upright)
        path = folder / f"{number:06d}-{Path(file).stem}.png"
        write_atomically(path, lambda partial, scaled=scaled: scaled.save(partial, format="png"))
    return folder


def _at_own_size(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a mask of the middle of a picture at the picture's size; what was cut off at its sides is 255, ignored."""
    ratio = min(size[0] / mask.size[0], size[1] / mask.size[1])
    inner = (max(1, round(mask.size[0] * ratio)), max(1, round(mask.size[1] * ratio)))
    whole = Image.new("L", size, 255)
    whole.paste(mask.resize(inner, Image.Resampling.NEAREST), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole
