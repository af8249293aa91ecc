"""Comparison of a challenger with the champion at a task over named fields: both answer one test split."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchmill.components.data.field_samples import FieldSamples, read_fields
from torchmill.components.data.named_fields import answer_names, named_fields
from torchmill.components.encoding.texts import of_files, read_files
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import shortened
from torchmill.components.evaluation.comparison.champion import unseen
from torchmill.components.evaluation.comparison.noninferiority import (
    Comparison,
    Verdict,
    confidence_of,
    judge,
    note_on_contests,
)
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.field_tasks.field_task import LOSS, FieldTask
from torchmill.components.field_tasks.statistics import RESAMPLES, resampled_measures, time_blocks
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.field_run import answers_of, encoding_of, fields_taken, stored_fields
from torchmill.components.onnx_model.proto import metadata_of, read_without_weights
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef
from torchmill.components.state_files import parse_json
from torchmill.components.tasks import is_share

BATCH = 64


def compare_field_models(
    challenger: Path,
    champion: Path,
    data: DataRef,
    config: PromoteConfig,
    gates: Mapping[str, bool] = {},
    trained_on: np.ndarray | None = None,
    contest: int = 1,
) -> Verdict:
    """Decide whether a challenger may take the champion's place, by a paired bootstrap of the main measure.

    Test samples that one of the two was trained on are left out for both. Of measures that are no shares, the margin
    is relative to the champion's.

    Args:
        gates: results of the challenger's own checks, by name.
        trained_on: digests of the champion's training samples; None if these are of ``data``.
        contest: number of this contest among those that the test split has decided, from 1.
    """
    task = FieldTask.open(data)
    if task.main_measure == LOSS:
        return Verdict("kept", "the task names no main_measure by which to compare them; promote by hand")
    if unlike := _unlike(champion, data):
        return Verdict("kept", f"the champion {unlike}, so they cannot be compared")
    rows, left_out, note = unseen(data, trained_on)
    if not len(rows):
        return Verdict("kept", f"{note}: none is left to compare the two on")
    test = read_fields(data, "test")
    test = test.part(rows) if left_out else test
    try:
        comparison = compare_answers(
            (champion, challenger), task, data, test, confidence_of(config.confidence, contest), left_out, contest
        )
    except OtherStatistics:
        return Verdict("kept", "the champion answers with other statistics, so they cannot be compared")
    margin = margin_of(data.measure, config.margin, comparison)
    verdict = judge(comparison, gates, margin, data.measure, "lower" if task.better == "higher" else "higher")
    reasons = (verdict.reason, note, note_on_contests(comparison, config.confidence, margin))
    return Verdict(verdict.outcome, "; ".join(filter(None, reasons)), comparison, margin)


class OtherStatistics(ValueError):
    """Two models answer with other statistics of a sample."""


def margin_of(measure: str, share: float, comparison: Comparison) -> float:
    """Return the largest loss that a share allows: of measures that are no shares, it is relative to the champion's."""
    return share if is_share(measure) else share * abs(comparison.champion_score)


def compare_answers(
    files: tuple[Path, Path],
    task: FieldTask,
    data: DataRef,
    test: FieldSamples,
    confidence: float,
    left_out: int = 0,
    contest: int = 1,
) -> Comparison:
    """Compare a champion and a challenger by the main measure of their answers to the same samples.

    Raises:
        OtherStatistics: their answers give other statistics.
    """
    arrays = [_statistics(file, task, data, test) for file in files]
    if arrays[0].keys() != arrays[1].keys():
        raise OtherStatistics(f"{files[1].name} gives other statistics")
    return _compared(arrays, task, len(test), left_out, confidence, contest)


def _unlike(champion: Path, data: DataRef) -> str:
    """Return in words why a champion can't answer this data; empty if it can."""
    metadata = metadata_of(read_without_weights(champion))
    if names.FIELDS not in metadata:
        return "is for a task of labels"
    ours = {field.name: field for field in named_fields(data)}
    for field in fields_taken(metadata):
        own = ours.get(field.name)
        if field.file and (own is None or own.shape[1:] != field.shape[1:] or own.kind != field.kind):
            return f"takes {field.words()}, which this data lacks"
    theirs = parse_json(metadata.get(names.CLASSES, "[]"), list[str])
    if theirs != answer_names(data):
        return f"knows the classes {shortened(theirs)}, and this data has {shortened(answer_names(data))}"
    pair = encoding_of(metadata), of_files(read_files(data.folder))
    are_words = all(isinstance(each, Vocabulary) for each in pair)
    if pair[0] != pair[1] and not (are_words and getattr(pair[0], "cut", "") == getattr(pair[1], "cut", "")):
        return "has another tokenizer"
    return ""


def _translated(inputs: dict[str, Tensor], file: Path, data: DataRef) -> dict[str, Tensor]:
    """Return inputs with the ids of a model's own vocabulary, which may be that of other texts."""
    metadata = metadata_of(read_without_weights(file))
    ours, theirs = encoding_of(metadata), of_files(read_files(data.folder))
    if ours == theirs or not isinstance(ours, Vocabulary) or not isinstance(theirs, Vocabulary):
        return inputs
    translate = replace(ours, max_length=theirs.max_length).translation(theirs)
    texts = {field.name for field in fields_taken(metadata) if field.text}
    return {
        name: torch.from_numpy(translate(values.numpy())).long() if name in texts else values
        for name, values in inputs.items()
    }


def _statistics(file: Path, task: FieldTask, data: DataRef, test: FieldSamples) -> dict[str, np.ndarray]:
    """Return the statistics of a model's answers to a split; random inputs are the same for every model."""
    session = open_session(file)
    fields = fields_taken(metadata_of(read_without_weights(file)))
    model, statistics = FieldsModel.of(torch.nn.Identity(), data), task.statistics()
    for start in range(0, len(test), BATCH):
        indices = torch.arange(start, min(start + BATCH, len(test)))
        batch = model.prepared(test.take(indices))
        answers = answers_of(session, _translated(stored_fields(test, fields, indices), file, data), BATCH)
        answer = {name: torch.from_numpy(values) for name, values in answers.items()}
        statistics.add(task.statistics_of(answer, batch))
    return statistics.arrays


def _compared(
    arrays: list[dict[str, np.ndarray]], task: FieldTask, samples: int, left_out: int, confidence: float, contest: int
) -> Comparison:
    joined = {f"{number}{name}": values for number, part in enumerate(arrays) for name, values in part.items()}

    def both(means: Mapping[str, Any]) -> dict[str, float]:
        halves = [
            task.summarized({name[1:]: value for name, value in means.items() if name[0] == half})[task.main_measure]
            for half in "01"
        ]
        return {"champion": halves[0], "challenger": halves[1]}

    blocks = time_blocks(samples, task.block) if task.block else None
    value, draws = resampled_measures(joined, both, blocks)
    sign = 1.0 if task.better == "higher" else -1.0
    advantages = sign * (draws[:, 0] - draws[:, 1])
    return Comparison(
        method=f"paired bootstrap, {RESAMPLES} resamples",
        samples=samples,
        champion_score=value["champion"],
        challenger_score=value["challenger"],
        advantage=sign * (value["champion"] - value["challenger"]),
        advantage_high=float(np.quantile(advantages, confidence)),
        confidence=confidence,
        p_value=min(1.0, 2 * float(min((advantages <= 0).mean(), (advantages >= 0).mean()))),
        left_out=left_out,
        contest=contest,
    )
