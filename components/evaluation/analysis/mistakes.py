"""The worst mistakes: what was answered wrongly and most surely, as a list and as a sheet of pictures."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from torchmill.components.data.encoding import Encoding
from torchmill.components.data.inspection.contact_sheet import is_legible, picture, shortened, typeface
from torchmill.components.data.samples import Samples
from torchmill.components.files import write_atomically
from torchmill.components.refs import DataRef
from torchmill.components.tasks import Mistake

MOST = 24
TEXT_SHOWN = 200
NUMBERS_SHOWN = 12
COLUMNS, CELL, GAP, CAPTION = 6, 112, 10, 50
"""Pixels of the sheet."""
INK, QUIET, RED = "#1d2433", "#5d6678", "#c62828"


def worst_mistakes(outputs: np.ndarray, truth: np.ndarray, data: DataRef, temperature: float = 1.0) -> list[Mistake]:
    """Return the wrong answers of the highest confidence, or the values that are farthest from the truth."""
    return data.task_object.worst_mistakes(outputs, truth, data.classes, data.target_units, temperature, MOST)


def tell(mistakes: Sequence[Mistake], test: Samples, encoding: Encoding | None) -> list[dict[str, Any]]:
    """Return mistakes as plain values, each with its input if that is a text or numbers."""
    return [_plain(mistake, _inputs(test, mistake.sample), encoding) for mistake in mistakes]


def _plain(mistake: Mistake, inputs: np.ndarray, encoding: Encoding | None) -> dict[str, Any]:
    entry: dict[str, Any] = asdict(mistake)
    if encoding:
        entry["text"] = shortened(encoding.decode(inputs), TEXT_SHOWN)
    if inputs.dtype == np.float32:
        entry["input"] = [float(f"{value:.5g}") for value in inputs.ravel()[:NUMBERS_SHOWN].tolist()]
    return entry


def draw_mistakes(mistakes: Sequence[Mistake], test: Samples, path: Path) -> None:
    """Write a sheet of pictures, each with what was answered, how surely, and the truth."""
    rows = -(-len(mistakes) // COLUMNS)
    columns = min(COLUMNS, len(mistakes))
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + CAPTION + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, mistake in enumerate(mistakes):
        x, y = GAP + number % COLUMNS * (CELL + GAP), GAP + number // COLUMNS * (CELL + CAPTION + GAP)
        sheet.paste(picture(_inputs(test, mistake.sample), CELL), (x, y))
        sure = "" if mistake.confidence is None else f" {percent(mistake.confidence)}"
        answer = f"{fitting(mistake.answer, CELL, sure)}{sure}"
        lines = [(answer, RED), (f"is {fitting(mistake.truth, CELL, 'is ')}", INK)]
        for line, (text, colour) in enumerate([*lines, (f"sample {mistake.sample}", QUIET)]):
            pen.text((x, y + CELL + 3 + 15 * line), text, fill=colour, font=typeface(12))
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
