"""Evaluate what was trained on one data set on another one, and a model of which there is but the ONNX file."""

import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from torchmill.components.data.encoding import Encoding, read_encoding, translation
from torchmill.components.data.lost_cells import read_lost_cells, with_lost_cells
from torchmill.components.data.samples import Samples, read_test
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import PADDING, UNKNOWN, Vocabulary
from torchmill.components.errors import UserError, shortened
from torchmill.components.evaluation.evaluate import judge
from torchmill.components.refs import DataRef, EvaluationRef
from torchmill.components.wording import percent

logger = logging.getLogger("torchmill")


def as_trained(data: DataRef, trained: DataRef) -> DataRef:
    """Describe another data set as a network that was trained on ``trained`` has to take it: standardised as that.

    Raises:
        UserError: its inputs are of another shape, or the classes are others.
    """
    mismatch = _mismatch(data, trained)
    if mismatch:
        raise UserError(
            f"{data.name} does not fit what was trained on {trained.name}: {mismatch}.",
            "Give a data set of the same shape and classes.",
        )
    # The folder, too: what tokens and columns mean is looked up there.
    names = ("mean", "std", "target_mean", "target_std", "target_scale", "target_spread")
    names += ("vocabulary_size", "shape", "folder")
    return data.model_copy(update={name: getattr(trained, name) for name in names})


def _mismatch(data: DataRef, trained: DataRef) -> str:
    if (data.kind, data.task) != (trained.kind, trained.task):
        return f"it is for {data.task} of {data.kind}, not for {trained.task} of {trained.kind}"
    if data.shape != trained.shape and not (read_encoding(data) and read_encoding(trained)):
        return f"an input is of shape {_words(data.shape)}, not {_words(trained.shape)}"
    if data.classes != trained.classes:
        return f"it has {_classes(data.classes)}, not {_classes(trained.classes)}"
    if data.field.is_picture and (unlike := trained.rules.unlike(data.rules)):
        return f"the latter {unlike}"
    return ""


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names)} classes ({shortened(names)})"


def read_as_trained(data: DataRef, trained: DataRef) -> Samples:
    """Give the test split of another data set; its tokens, and its columns, by the numbers that they had in training.

    Raises:
        UserError: texts are cut into tokens in another way, or a column is missing.
    """
    return _translated(data, read_encoding(trained), trained.name)


def _translated(data: DataRef, ours: Encoding | None, trained: str) -> Samples:
    test, theirs = read_test(data), read_encoding(data)
    if isinstance(ours, Vocabulary) and isinstance(theirs, Vocabulary) and ours.cut != theirs.cut:
        raise UserError(
            f"{data.name} cuts texts into {theirs.cut}, {trained} into {ours.cut}: the tokens do not fit.",
            "Prepare both in the same way, with --data.args.",
        )
    if ours is None or theirs is None or ours == theirs:
        return test
    try:
        inputs = torch.from_numpy(translation(theirs, ours)(test.inputs.numpy()))
    except UserError as error:
        raise UserError(f"{data.name} does not fit {trained}: {error.message}", error.remedy) from None
    if isinstance(ours, Columns):
        inputs = torch.from_numpy(with_lost_cells(inputs.numpy(), ours, read_lost_cells(data.folder)))
    if isinstance(ours, Columns) and isinstance(theirs, Columns) and (lost := ours.unknown(theirs)):
        categories = "; ".join(f"{name} = {', '.join(kinds[:5])}" for name, kinds in lost.items())
        logger.warning("%s has categories that %s does not know: %s", data.name, trained, categories)
    if isinstance(ours, Vocabulary):
        share = float((inputs == UNKNOWN).sum() / (inputs != PADDING).sum())
        logger.info("%s of the tokens of %s are unknown to it or to %s", percent(share), data.name, trained)
    lengths = None if test.lengths is None else test.lengths.clamp(max=inputs.shape[1])
    return Samples(inputs, test.labels, lengths)


def evaluate_onnx(file: Path, data: DataRef, folder: Path, batch_size: int) -> EvaluationRef:
    """Score an ONNX model, as ``torchmill train`` exports them, on a data set's test split, by onnxruntime.

    Raises:
        UserError: it cannot be run, or does not fit the data.
    """
    # Here, since onnx takes a while to import, and an evaluation in torch needs none of it.
    from torchmill.components.onnx_model import names
    from torchmill.components.onnx_model.model import open_model
    from torchmill.components.onnx_model.run import run

    model = open_model(file)
    session, described = model.session, model.metadata
    labels = json.loads(described.get(names.CLASSES, "null"))
    if labels is not None and tuple(labels) != data.classes:
        raise UserError(
            f"{data.name} does not fit {file.name}: it has {_classes(data.classes)}, "
            f"the model {_classes(tuple(labels))}.",
            "Give the data set that it was trained on, or one of the same classes.",
        )
    if data.field.is_picture and (unlike := model.rules.unlike(data.rules)):
        raise UserError(f"{data.name} does not fit {file.name}, which {unlike}.")

    def answer(samples: Samples) -> Tensor:
        try:
            return torch.from_numpy(run(session, samples, batch_size)[1]).float()
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(
                f"{file.name} does not take {data.name}: {' '.join(str(error).split())}",
                "Give a data set whose inputs are of the shape that it was trained on.",
            ) from None

    test = _translated(data, model.encoding, file.name)
    outputs = answer(test.first(1))
    if outputs.ndim != 2 or outputs.shape[1] != len(data.classes):
        raise UserError(
            f"{file.name} gives outputs of shape {_words(tuple(outputs.shape[1:]))}; {data.name} has {data.outputs}."
        )
    return judge(answer, test, data, folder, model.temperature, encoding=model.encoding)
