"""Are these inputs like those of the training? Sums that can be added up, part by part, and what they mean together."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from torchmill.components.metrics.histogram import histogram
from torchmill.components.onnx_model import names
from torchmill.components.onnx_model.model import OnnxModel
from torchmill.components.wording import percent

FAR = 0.5
"""Of a training deviation: a mean that is further off is told."""
SURE = 4
"""So many standard errors it is off as well: a few inputs are never quite like many."""

Sums = dict[str, Any]


def sums_of(model: OnnxModel, inputs: np.ndarray, confidence: np.ndarray) -> Sums:
    """Sum up a batch of raw inputs, (N, …), and of how sure the answers are, (N,) from 0 to 1; empty of regressions."""
    return {
        "samples": len(inputs),
        "confidence": histogram(confidence),
        **model.field.sums(inputs, model.columns if not model.field.is_sequence else None),
    }


def added(parts: Sequence[Sums]) -> Sums:
    """Add sums up."""
    total: Sums = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, list):
                before = total.get(name) or [0] * len(value)
                total[name] = [one + other for one, other in zip(before, value, strict=True)]
            else:
                total[name] = total.get(name, 0) + value
    return total


def note(model: OnnxModel, total: Mapping[str, Any]) -> dict[str, Any]:
    """Put what the inputs are beside what those of the training were, as far as the file knows."""
    told: dict[str, Any] = {"samples": total.get("samples", 0), "confidence_histogram": total.get("confidence", [])}
    if total.get("values"):
        mean = np.array(total["sum"]) / total["values"]
        std = np.sqrt(np.maximum(0, np.array(total["squares"]) / total["values"] - mean**2))
        told |= {"mean": mean.tolist(), "std": std.tolist()}
        told |= {"brightness_histogram": total["brightness"]} if "brightness" in total else {}
        told |= _beside(model, mean, told["samples"])
    if total.get("unknown_categories"):
        pairs = zip(model.columns.category_spans if model.columns else (), total["unknown_categories"], strict=True)
        shares = {name: count / total["values"] for name, count in pairs}
        told["unknown_categories"] = shares
        for name, share in shares.items():
            if share:
                told["words"] += f"; {percent(share)} of '{name}' are none of the training's categories"
    return told | model.field.drift(total)


def _beside(model: OnnxModel, mean: np.ndarray, samples: int) -> dict[str, Any]:
    try:
        held = json.loads(model.metadata[names.INPUT_STATISTICS])
        usual, spread = (np.array(held[name], np.float64).ravel() for name in ("mean", "std"))
    except (KeyError, ValueError, TypeError):
        return {"training": None, "words": "the model's file does not say what its training inputs were like"}
    if usual.shape != mean.shape or spread.shape != mean.shape:
        return {"training": held, "words": "the training inputs had another number of channels or features"}
    shift = (mean - usual) / np.where(spread > 0, spread, 1)
    worst = int(np.abs(shift).argmax())
    off = abs(float(shift[worst]))
    far, few = off > max(FAR, SURE / math.sqrt(samples)), off > FAR
    what = f"{model.field.feature_word} {worst}"
    if model.columns:
        what = f"'{model.columns.features[worst]}'"
    words = f"the mean of {what} is {off:.2f} training deviations off"
    return {
        "training": held,
        "shift": [float(one) if math.isfinite(one) else None for one in shift],
        "is_far": far,
        "words": words if far else f"{'too few to say' if few else 'like the training inputs'}: {words}",
    }
