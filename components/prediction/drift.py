"""Drift: a comparison of inputs with those of training, from sums that add up part by part."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.metrics.histogram import histogram
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.model import OnnxModel
from torchmill.components.state_files import parse_json
from torchmill.components.wording import percent

FAR = 0.5
"""Smallest reported shift of a mean, in training deviations."""
SURE = 4
"""Smallest reported shift of a mean, in standard errors: few inputs always differ a little from many."""

Sums = dict[str, Any]


def sums_of(model: OnnxModel, inputs: np.ndarray, confidence: np.ndarray) -> Sums:
    """Return the sums of a batch of raw inputs, (N, …), and the histogram of its confidence, (N,) from 0 to 1.

    A regression has no confidence: the array is empty.
    """
    return {
        "samples": len(inputs),
        "confidence": histogram(confidence),
        **model.field.sums(inputs, model.columns if not model.field.is_sequence else None),
    }


def added(parts: Sequence[Sums]) -> Sums:
    """Add up the sums of several parts."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, list):
                before = total.get(name) or [0] * len(value)
                total[name] = [old + new for old, new in zip(before, value, strict=True)]
            else:
                total[name] = total.get(name, 0) + value
    return total


def note(model: OnnxModel, total: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of the inputs and their comparison with training's, if the model's file has those."""
    findings: dict[str, Any] = {"samples": total.get("samples", 0), "confidence_histogram": total.get("confidence", [])}
    if total.get("values"):
        mean = np.array(total["sum"]) / total["values"]
        std = np.sqrt(np.maximum(0, np.array(total["squares"]) / total["values"] - mean**2))
        findings |= {"mean": mean.tolist(), "std": std.tolist()}
        findings |= {"brightness_histogram": total["brightness"]} if "brightness" in total else {}
        findings |= _comparison(model, mean, findings["samples"])
    if total.get("unknown_categories"):
        pairs = zip(_categories(model), total["unknown_categories"], strict=True)
        shares = {name: count / total["values"] for name, count in pairs}
        findings["unknown_categories"] = shares
        for name, share in shares.items():
            if share:
                findings["words"] += f"; {percent(share)} of '{name}' are none of the training's categories"
    return findings | model.field.drift(total)


def _feature(model: OnnxModel, position: int) -> str:
    return f"'{model.columns.features[position]}'" if model.columns else f"{model.field.feature_word} {position}"


def _categories(model: OnnxModel) -> Mapping[str, slice]:
    """Return the positions of each column's categories, which are 0 or 1."""
    return model.columns.category_spans if model.columns else {}


def _comparison(model: OnnxModel, mean: np.ndarray, samples: int) -> dict[str, Any]:
    try:
        training = parse_json(model.metadata[names.INPUT_STATISTICS], dict[str, Any])
        usual, spread = (np.array(training[name], np.float64).ravel() for name in ("mean", "std"))
    except (KeyError, ValueError, TypeError):
        return {"training": None, "words": "the model's file does not say what its training inputs were like"}
    if usual.shape != mean.shape or spread.shape != mean.shape:
        return {"training": training, "words": "the training inputs had another number of channels or features"}
    shift = (mean - usual) / np.where(spread > 0, spread, 1)
    pieces = sorted(model.columns.pieces) if model.columns else []
    worst = int(np.delete(np.arange(len(shift)), pieces)[np.abs(np.delete(shift, pieces)).argmax()])
    off = abs(float(shift[worst]))
    words = f"the mean of {_feature(model, worst)} is {off:.2f} training deviations off"
    if model.columns and worst in model.columns.shares:  # a 0 or 1: its mean is a share
        shares = f"{percent(float(mean[worst]))} of the inputs, and in {percent(float(usual[worst]))} of the training's"
        words = f"{_feature(model, worst)} is in {shares}"
    far, words = judged(off, samples, words)
    return {
        "training": training,
        "shift": [float(value) if math.isfinite(value) else None for value in shift],
        "is_far": far,
        "words": words,
    }


def judged(off: float, samples: int, words: str) -> tuple[bool, str]:
    """Return whether the mean of some inputs is far from training's, and the finding in words.

    Args:
        off: distance of the means, in training deviations.
        words: the distance in words.
    """
    if off > max(FAR, SURE / math.sqrt(samples)):
        return True, words
    return False, f"{'too few to say' if off > FAR else 'like the training inputs'}: {words}"
