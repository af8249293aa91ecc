"""Evaluate what was trained on one data set on another one, and a model of which there is but the ONNX file."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.data.batches import Samples, read_test
from components.data.vocabulary import SPECIAL, UNKNOWN
from components.errors import UserError
from components.evaluation.evaluate import judge, vocabulary_of
from components.refs import DataRef, EvaluationRef


def as_trained(other: DataRef, trained: DataRef) -> DataRef:
    """Describe another data set as a network that was trained on ``trained`` has to take it: standardised as that.

    Raises:
        UserError: its inputs are of another shape, or the classes are others.
    """
    mismatch = _mismatch(other, trained)
    if mismatch:
        raise UserError(
            f"{other.name} does not fit what was trained on {trained.name}: {mismatch}.",
            "Give a data set of the same shape and classes.",
        )
    kept = ("mean", "std", "target_mean", "target_std", "vocabulary_size", "shape")
    return other.model_copy(update={name: getattr(trained, name) for name in kept})


def _mismatch(other: DataRef, trained: DataRef) -> str:
    if (other.kind, other.task) != (trained.kind, trained.task):
        return f"it is for {other.task} of {other.kind}, not for {trained.task} of {trained.kind}"
    if other.kind != "tokens" and other.shape != trained.shape:
        return f"an input is of shape {_words(other.shape)}, not {_words(trained.shape)}"
    if other.classes != trained.classes:
        return f"it has {_some(other.classes)}, not {_some(trained.classes)}"
    return ""


def _words(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _some(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:4])}{', …' * (len(classes) > 4)})"


def read_as_trained(other: DataRef, trained: DataRef) -> Samples:
    """Give the test split of another data set; its tokens by the numbers that they had in training.

    Raises:
        UserError: texts are cut into tokens in another way.
    """
    test = read_test(other)
    theirs, ours = vocabulary_of(other), vocabulary_of(trained)
    if theirs is None or ours is None or theirs == ours:
        return test
    if (theirs.level, theirs.lower_case) != (ours.level, ours.lower_case):
        raise UserError(
            f"{other.name} cuts texts into {theirs.level}, {trained.name} into {ours.level}: the tokens do not fit.",
            "Prepare both in the same way, with --data.args.",
        )
    known = [ours.ids.get(token, UNKNOWN) for token in theirs.tokens[len(SPECIAL) :]]
    table = np.array([*range(len(SPECIAL)), *known], np.int32)
    inputs = torch.from_numpy(table[test.inputs.numpy()][:, : ours.max_length])
    lengths = None if test.lengths is None else test.lengths.clamp(max=ours.max_length)
    return Samples(inputs, test.labels, lengths)


def evaluate_onnx(file: Path, data: DataRef, folder: Path, batch_size: int) -> EvaluationRef:
    """Score an ONNX model, as ``torchmill train`` exports them, on a data set's test split, by onnxruntime.

    Raises:
        UserError: it cannot be run, or does not fit the data.
    """
    from components.export import parity
    from components.prediction.model import open_model

    model = open_model(file)
    session, described = model.session, model.metadata
    labels = json.loads(described.get("labels", "null"))
    if labels is not None and tuple(labels) != data.classes:
        raise UserError(
            f"{data.name} does not fit {file.name}: it has {_some(data.classes)}, the model {_some(tuple(labels))}.",
            "Give the data set that it was trained on, or one of the same classes.",
        )
    vocabulary = vocabulary_of(data)
    if vocabulary and json.loads(described.get("vocabulary", "null")) != json.loads(vocabulary.as_json()):
        raise UserError(
            f"{data.name} does not fit {file.name}: its vocabulary is another one.",
            "Evaluate the run that the model is of, by its name: that has both vocabularies.",
        )

    def answer(samples: Samples) -> Tensor:
        try:
            return torch.from_numpy(parity.run(session, samples, batch_size)[1]).float()
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise UserError(
                f"{file.name} does not take {data.name}: {' '.join(str(error).split())}",
                "Give a data set whose inputs are of the shape that it was trained on.",
            ) from None

    test = read_test(data)
    outputs = answer(test.first(1))
    if outputs.ndim != 2 or outputs.shape[1] != len(data.classes):
        raise UserError(
            f"{file.name} gives outputs of shape {_words(tuple(outputs.shape[1:]))}; {data.name} has {data.outputs}."
        )
    return judge(answer, test, data, folder)
