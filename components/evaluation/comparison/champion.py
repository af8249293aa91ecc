"""Comparison of a challenger with the champion: both ONNX models answer one test split."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from torchmill.components.data.encoding import Encoding, read_encoding, translation
from torchmill.components.data.samples import Samples, read_test
from torchmill.components.evaluation.comparison.noninferiority import Verdict, compare, judge, sample_scores
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.onnx_model.model import OnnxModel, open_model
from torchmill.components.refs import DataRef
from torchmill.components.state_files import require_json

BATCH = 256


def compare_with_champion(
    challenger: Path, champion: Path, data: DataRef, config: PromoteConfig, gates: Mapping[str, bool] = {}
) -> Verdict:
    """Decide whether a challenger may take the champion's place, by their answers to the test split as it is now.

    Args:
        challenger: ONNX file of the challenger.
        champion: ONNX file of the champion, which may have been trained on other data.
        gates: results of the challenger's own checks, by name.

    Raises:
        UserError: a file cannot be used.
    """
    ours, theirs = open_model(challenger), open_model(champion)
    if unlike := theirs.unlike(data):
        return Verdict("kept", f"the champion {unlike}, so they cannot be compared")
    test = read_test(data)
    encoding = read_encoding(data)
    both = [answers(model, test, encoding) for model in (theirs, ours)]
    scores = [sample_scores(data.task, outputs, test.labels.numpy()) for outputs in both]
    return judge(compare(*scores, config.confidence), gates, config.margin, data.measure)


def answers(model: OnnxModel, test: Samples, encoding: Encoding | None) -> np.ndarray:
    """Return a model's logits or values for a whole split, float32 (N, K); inputs are translated from ``encoding``."""
    translated = translation(encoding, model.encoding)
    return np.concatenate([model.outputs(translated(inputs.numpy())) for inputs, _ in test.batches(BATCH)])


def gates_of(parity_report: Path) -> dict[str, bool]:
    """Return the gates of an export from its parity report: name and whether it passed."""
    report = require_json(parity_report, dict[str, object], "Run the same command again: the export is done anew.")
    return {"the comparison of the export with its network": bool(report["passed"])}
