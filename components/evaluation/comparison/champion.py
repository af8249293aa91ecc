"""Comparison of a challenger with the champion: both ONNX models answer one test split."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from torchmill.components.data.content import read_digests, trained_digests
from torchmill.components.data.encoding import Encoding, read_encoding, translation
from torchmill.components.data.lost_cells import LostCells, part_of, read_lost_cells, with_lost_cells
from torchmill.components.data.samples import Samples, read_test
from torchmill.components.encoding.columns import Columns
from torchmill.components.evaluation.comparison.noninferiority import (
    Verdict,
    compare,
    confidence_of,
    judge,
    note_on_contests,
    sample_scores,
)
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.onnx_model.model import OnnxModel, open_model
from torchmill.components.refs import DataRef
from torchmill.components.state_files import require_json

BATCH = 256


def compare_with_champion(
    challenger: Path,
    champion: Path,
    data: DataRef,
    config: PromoteConfig,
    gates: Mapping[str, bool] = {},
    trained_on: np.ndarray | None = None,
    contest: int = 1,
) -> Verdict:
    """Decide whether a challenger may take the champion's place, by their answers to the test split as it is now.

    Samples that one of the two was trained on are left out for both.

    Args:
        challenger: ONNX file of the challenger, which was trained on ``data``.
        champion: ONNX file of the champion, which may have been trained on other data.
        gates: results of the challenger's own checks, by name.
        trained_on: digests of the champion's training samples; None if these are of ``data``.
        contest: number of this contest among those that the test split has decided, from 1.

    Raises:
        UserError: a file cannot be used.
    """
    ours, theirs = open_model(challenger), open_model(champion)
    if unlike := theirs.unlike(data):
        return Verdict("kept", f"the champion {unlike}, so they cannot be compared")
    rows, left_out, note = unseen(data, trained_on)
    if not len(rows):
        return Verdict("kept", f"{note}: none is left to compare the two on")
    test = read_test(data)
    test = test.part(rows) if left_out else test
    encoding = read_encoding(data)
    lost = part_of(read_lost_cells(data.folder), rows.tolist())
    both = [answers(model, test, encoding, lost) for model in (theirs, ours)]
    scores = [sample_scores(data.task, outputs, test.labels.numpy()) for outputs in both]
    comparison = compare(*scores, confidence_of(config.confidence, contest))
    comparison = replace(comparison, left_out=left_out, contest=contest)
    verdict = judge(comparison, gates, config.margin, data.measure)
    notes = (verdict.reason, note, note_on_contests(comparison, config.confidence, config.margin))
    return replace(verdict, reason="; ".join(filter(None, notes)))


def unseen(data: DataRef, trained_on: np.ndarray | None) -> tuple[torch.Tensor, int, str]:
    """Return the rows of test samples that neither model was trained on, the number of the others, and a note on these.

    Args:
        trained_on: digests of the champion's training samples; None if these are of ``data``.
    """
    digests, own = read_digests(data, "test"), trained_digests(data)
    by_challenger = np.isin(digests, own)
    by_champion = by_challenger if trained_on is None else np.isin(digests, trained_on)
    seen = by_challenger | by_champion
    note, left_out = "", int(seen.sum())
    if left_out:
        names = [name for name, has in (("champion", by_champion), ("challenger", by_challenger)) if has.any()]
        models = " or the ".join(names)
        note = f"{left_out:,} of {len(digests):,} test samples were left out: the {models} was trained on them"
    elif trained_on is not None and len(trained_on) and not np.isin(trained_on, own).any():
        note = f"this data has none of the {len(trained_on):,} samples the champion was trained on, at least as such"
    return torch.from_numpy(np.flatnonzero(~seen)), left_out, note


def answers(model: OnnxModel, test: Samples, encoding: Encoding | None, lost: LostCells) -> np.ndarray:
    """Return a model's logits or values for a whole split, float32 (N, K); inputs are translated from ``encoding``.

    Args:
        lost: cells that ``encoding`` can't tell.
    """
    translated, outputs = translation(encoding, model.encoding), []
    for number, (inputs, _) in enumerate(test.batches(BATCH)):
        known = translated(inputs.numpy())
        if isinstance(model.encoding, Columns) and model.encoding != encoding:
            known = with_lost_cells(known, model.encoding, lost, number * BATCH)
        outputs.append(model.outputs(known))
    return np.concatenate(outputs)


def gates_of(parity_report: Path) -> dict[str, bool]:
    """Return the gates of an export from its parity report: name and whether it passed."""
    report = require_json(parity_report, dict[str, object], "Run the same command again: the export is done anew.")
    return {"the comparison of the export with its network": bool(report["passed"])}
