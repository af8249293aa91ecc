"""A contact sheet of a data set: images of each class, texts, or histograms of numbers."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from torchmill.components import files
from torchmill.components.data.fetch import read_columns
from torchmill.components.encoding.columns import Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.refs import DataRef

CLASSES, EACH, FEATURES = 10, 8, 16
"""Number of classes, of samples per class and of histograms that are drawn."""

CELL, GAP, TITLE = 72, 6, 130
"""Sizes in pixels."""

INK, RED = "#222222", "#c62828"
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
TEXT_SHOWN = 100
NAME_SHOWN = 16
"""Longest text and longest name of a feature, in characters."""


def draw(
    data: DataRef,
    inputs: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    suspects: Sequence[int],
    vocabulary: Vocabulary | None,
    folder: Path,
) -> None:
    """Write ``samples.png`` into a folder, and ``samples.txt`` for texts.

    Args:
        rows: rows of the training split in the training file.
        suspects: rows with suspect labels; drawn below the other samples of their class, in a red frame.
    """
    groups = _groups(data, labels, rows)
    if data.field.is_picture:
        sheet = _pictures(data, inputs, labels, groups, suspects)
    elif vocabulary:
        lines = _texts(inputs, groups, vocabulary)
        files.write_text(folder / "samples.txt", "\n".join(lines) + "\n")
        sheet = _page(lines)
    else:
        columns = read_columns(data)
        sheet = _histograms(inputs, groups, columns)
    files.write_atomically(folder / "samples.png", lambda partial: sheet.save(partial, "PNG"))


Groups = list[tuple[str, int, np.ndarray]]
"""Name, number and rows of each class; number -1 for all samples."""


def _groups(data: DataRef, labels: np.ndarray, rows: np.ndarray) -> Groups:
    truth = labels[rows]
    if data.task_object.counts(truth, len(data.classes)) is None:
        return [("all", -1, rows)]
    chosen = [(name, number) for number, name in enumerate(data.classes[:CLASSES])]
    return [
        (name, number, rows[truth == number if truth.ndim == 1 else truth[:, number] == 1]) for name, number in chosen
    ]


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)] if len(rows) else rows


def _pictures(
    data: DataRef, inputs: np.ndarray, labels: np.ndarray, groups: Groups, suspects: Sequence[int]
) -> Image.Image:
    lines = []
    for name, number, rows in groups:
        lines.append((name, number, INK, _spread(rows, EACH).tolist()))
        if data.task_object.is_exclusive and (doubtful := [row for row in suspects if labels[row] == number][:EACH]):
            lines.append((f"{name}?", number, RED, doubtful))
    legend = 24 * any(color == RED for _, _, color, _ in lines)
    height = len(lines) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (TITLE + EACH * (CELL + GAP) + GAP, height + legend), "white")
    pen, font = ImageDraw.Draw(sheet), typeface(15)
    if legend:
        pen.text((GAP, height), "In red: suspect labels, since their neighbours have another one.", fill=RED, font=font)
    for line, (name, number, color, rows) in enumerate(lines):
        top = GAP + line * (CELL + GAP)
        title = shortened(name, 15) if is_legible(name, font) else f"class {number}" + "?" * (color == RED)
        pen.text((GAP, top + CELL // 2 - 9), title, fill=color, font=font)
        for column, row in enumerate(rows):
            left = TITLE + column * (CELL + GAP)
            sheet.paste(picture(np.asarray(inputs[row])), (left, top))
            if color == RED:
                pen.rectangle((left - 2, top - 2, left + CELL + 1, top + CELL + 1), outline=RED, width=2)
    return sheet


def picture(image_CHW: np.ndarray, side: int = CELL) -> Image.Image:
    """Return an image, uint8 (C, H, W), as an RGB picture whose longer side has ``side`` pixels."""
    plain = image_CHW[0] if image_CHW.shape[0] != 3 else image_CHW.transpose(1, 2, 0)
    original = Image.fromarray(np.ascontiguousarray(plain)).convert("RGB")
    resampling = Image.Resampling.NEAREST if max(original.size) < side else Image.Resampling.BILINEAR
    scale = side / max(original.size)
    size = (max(1, round(original.width * scale)), max(1, round(original.height * scale)))
    return original.resize(size, resampling)


def _texts(inputs: np.ndarray, groups: Groups, vocabulary: Vocabulary) -> list[str]:
    lines = []
    for name, _, rows in groups:
        lines += [
            name,
            *(f"    {shortened(vocabulary.decode(inputs[row].tolist()), TEXT_SHOWN)}" for row in _spread(rows, EACH)),
        ]
    return lines


def _page(lines: Sequence[str]) -> Image.Image:
    font = typeface(13)
    if not all(is_legible(line, font) for line in lines):
        lines = ["Letters in boxes are missing in the font of this picture; samples.txt has them.", *lines]
    sheet = Image.new("RGB", (860, 17 * len(lines) + 2 * GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((GAP, GAP + 17 * number), line, fill=INK, font=font)
    return sheet


def _histograms(inputs: np.ndarray, groups: Groups, table: Columns | None) -> Image.Image:
    """Draw a histogram for each of the first features, with a line for each class."""
    flat = inputs.reshape(len(inputs), -1)
    names, pieces = (table.features, table.pieces) if table else ((), frozenset())
    drawn = [feature for feature in range(flat.shape[1]) if feature not in pieces][:FEATURES]
    wide, high, columns, bins = 210, 150, 4, 24
    sheet = Image.new("RGB", (columns * wide, -(-len(drawn) // columns) * high), "white")
    pen, font = ImageDraw.Draw(sheet), typeface(11)
    for place, feature in enumerate(drawn):
        left, top = place % columns * wide, place // columns * high
        values = [np.asarray(flat[_spread(rows, 20_000), feature]) for _, _, rows in groups]
        pooled = np.concatenate(values)
        low, up = (float(pooled.min()), float(pooled.max())) if len(pooled) else (0.0, 1.0)
        name = shortened(names[feature], NAME_SHOWN) if names else ""
        name = name if name and is_legible(name, font) else f"feature {feature}"
        pen.text((left + 10, top + 2), f"{name}: {low:.3g} to {up:.3g}", fill=INK, font=font)
        pen.line((left + 10, top + high - 10, left + wide - 10, top + high - 10), fill="#999999")
        for number, part in enumerate(values):
            counts = np.histogram(part, bins, (low, up if up > low else low + 1))[0] / max(1, len(part))
            heights = counts / max(counts.max(), 1e-9) * (high - 35)
            points = [
                (left + 10 + (wide - 20) * (at + 0.5) / bins, top + high - 10 - float(tall))
                for at, tall in enumerate(heights)
            ]
            pen.line(points, fill=COLORS[number % len(COLORS)], width=2)
    return sheet


def shortened(text: str, length: int) -> str:
    """Return a text on one line, cut to a length."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def is_legible(text: str, font: Any) -> bool:
    """Return True if the font has all letters; it draws the same box for each missing one."""
    box = bytes(font.getmask("\U0010ffff"))
    return all(letter.isascii() or bytes(font.getmask(letter)) != box for letter in set(text))


def typeface(size: int) -> Any:
    """Return DejaVu, which has Greek and Cyrillic. It comes with matplotlib, which is not imported."""
    spec = importlib.util.find_spec("matplotlib")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)
