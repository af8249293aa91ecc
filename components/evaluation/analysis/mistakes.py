"""The worst mistakes: what was answered wrongly and most surely, as a list and as a sheet of pictures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from torchmill.components.data.encoding.encoding import Encoding
from torchmill.components.data.inspection.contact_sheet import is_legible, picture, shortened, typeface
from torchmill.components.data.samples import Samples
from torchmill.components.files import write_atomically
from torchmill.components.metrics.calibration import confidences
from torchmill.components.refs import DataRef

MOST = 24
TEXT_SHOWN = 200
NUMBERS_SHOWN = 12
COLUMNS, CELL, GAP, CAPTION = 6, 112, 10, 50
"""Pixels of the sheet."""
INK, QUIET, RED = "#1d2433", "#5d6678", "#c62828"


@dataclass(frozen=True)
class Mistake:
    """A test sample that was answered wrongly."""

    sample: int
    """Place in the test split, from 0."""
    output: int
    """The class that was answered, or the label or target in question."""
    truth: str
    answer: str
    confidence: float | None
    """Probability that the network gives its answer; None of numbers."""

    def told(self, inputs: np.ndarray, encoding: Encoding | None) -> dict[str, Any]:
        """Give it as plain values, with the input where that is a text or numbers."""
        held: dict[str, Any] = asdict(self)
        if encoding:
            held["text"] = shortened(encoding.decode(inputs), TEXT_SHOWN)
        if inputs.dtype == np.float32:
            held["input"] = [float(f"{value:.5g}") for value in inputs.ravel()[:NUMBERS_SHOWN].tolist()]
        return held


def worst_mistakes(outputs: np.ndarray, truth: np.ndarray, data: DataRef, temperature: float = 1.0) -> list[Mistake]:
    """Give the wrong answers of the highest confidence, or the values that are farthest from the truth."""
    match data.task:
        case "classification":
            answers, sure = outputs.argmax(1), confidences(outputs, temperature)
            wrong = np.flatnonzero(answers != truth)
            return [
                Mistake(row, int(answers[row]), data.classes[truth[row]], data.classes[answers[row]], float(sure[row]))
                for row in _first(wrong, sure[wrong])
            ]
        case "multilabel":
            rows, labels = np.nonzero((outputs > 0) != (truth > 0.5))
            sure = 1 / (1 + np.exp(-np.abs(outputs[rows, labels].astype(np.float64))))
            told = []
            for at in _first(np.arange(len(rows)), sure):
                row, label = int(rows[at]), int(labels[at])
                words = ("yes", "no") if truth[row, label] > 0.5 else ("no", "yes")
                told.append(Mistake(row, label, *(f"{data.classes[label]}: {word}" for word in words), float(sure[at])))
            return told
        case _:
            spread = np.array([value or 1.0 for value in data.target_std])
            apart = np.abs(outputs.astype(np.float64) - truth) / spread
            target = apart.argmax(1)
            found = []
            for row in _first(np.arange(len(apart)), apart.max(1)):
                at = int(target[row])
                name = f"{data.classes[at]} " * (len(data.classes) > 1)
                values = truth[row, at], outputs[row, at]
                found.append(Mistake(row, at, *(f"{name}{value:.5g}" for value in values), None))
            return found


def _first(rows: np.ndarray, values: np.ndarray) -> list[int]:
    """Give the rows of the highest values; of equal ones the first."""
    return rows[np.argsort(-values, kind="stable")[:MOST]].tolist()


def tell(mistakes: Sequence[Mistake], test: Samples, encoding: Encoding | None) -> list[dict[str, Any]]:
    """Give mistakes as plain values."""
    return [one.told(_inputs(test, one.sample), encoding) for one in mistakes]


def draw_mistakes(mistakes: Sequence[Mistake], test: Samples, path: Path) -> None:
    """Write a sheet of pictures, each with what was answered, how surely, and the truth."""
    rows = -(-len(mistakes) // COLUMNS)
    columns = min(COLUMNS, len(mistakes))
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + CAPTION + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, one in enumerate(mistakes):
        left, top = GAP + number % COLUMNS * (CELL + GAP), GAP + number // COLUMNS * (CELL + CAPTION + GAP)
        sheet.paste(picture(_inputs(test, one.sample), CELL), (left, top))
        sure = "" if one.confidence is None else f" {percent(one.confidence)}"
        lines = [(f"{fitting(one.answer, CELL, sure)}{sure}", RED), (f"is {fitting(one.truth, CELL, 'is ')}", INK)]
        for line, (text, colour) in enumerate([*lines, (f"sample {one.sample}", QUIET)]):
            pen.text((left, top + CELL + 3 + 15 * line), text, fill=colour, font=typeface(12))
    write_atomically(path, lambda partial: sheet.save(partial, "PNG"))


def percent(share: float) -> str:
    """A probability in per cent, of which no rounding makes a certainty."""
    return f"{min(share, 0.999999) * 100:.{1 if share < 0.999 else 2 if share < 0.9999 else 3}f} %"


def fitting(name: str, width: int, beside: str = "") -> str:
    """Shorten a name until it has room in so many pixels, with what stands beside it; "…" where the font lacks it."""
    font, shown = typeface(12), shortened(name, 60)
    if not is_legible(shown, font):
        return "…"
    while len(shown) > 2 and font.getlength(shown + beside) > width:
        shown = shown.rstrip("…")[:-1] + "…"
    return shown


def _inputs(test: Samples, row: int) -> np.ndarray:
    return test.take(torch.tensor([row]))[0][0].cpu().numpy()
