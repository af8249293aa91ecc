"""Pictures for the run: the confusion matrix and the curves of training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.files import write_atomically
from components.training.progress import EpochResult

INK, QUIET, ACCENT, SECOND = "#1d2433", "#8a93a6", "#2f6fde", "#e0752d"


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw counts by true class (rows) and answer (columns).

    Shades are shares of the true class, so that a rare class is seen as well as a common one.
    """
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(12.0, 2.2 + 0.55 * len(classes))
    figure, axes = _figure(side, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45 if max(map(len, classes)) > 3 else 0, ha="center")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title(f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} right", loc="left", color=INK)
    if len(classes) <= 25:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def draw_curves(history: Sequence[EpochResult], path: Path) -> None:
    """Draw loss and accuracy of training and validation over the epochs."""
    epochs = [row.epoch for row in history]
    figure, (left, right) = _figure(9, 3.6, columns=2)
    for axes, measure in ((left, "loss"), (right, "accuracy")):
        for split, colour in (("train", QUIET), ("validation", ACCENT)):
            values = [row.metrics()[f"{split}_{measure}"] for row in history]
            axes.plot(epochs, values, color=colour, linewidth=2, marker="o", markersize=3, label=split)
        best = next((row.epoch for row in reversed(history) if row.is_best), None)
        if best is not None:
            axes.axvline(best, color=SECOND, linewidth=1, linestyle=":", label="best")
        axes.set_title(measure, loc="left", color=INK)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color="#e6e9ef")
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False)
    _save(figure, path)


def _figure(width: float, height: float, columns: int = 1):
    # Figure without pyplot: no global state, no display, and half of the import time.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def _save(figure, path: Path) -> None:
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=130, format="png"))
