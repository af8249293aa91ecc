"""Pictures of measures: the confusion matrix, scores of labels, calibration, answers over targets."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchmill.components.files import write_atomically
from torchmill.components.metrics.scores import ClassScore
from torchmill.components.wording import percent

MOST_NAMED = 40
"""Number of classes or labels that are named in a picture. Each name takes matplotlib 10 ms, and room."""

INK, QUIET, ACCENT, SECOND = "#1d2433", "#8a93a6", "#2f6fde", "#e0752d"


def draw_confusion(confusion: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Draw counts by true class (rows) and answer (columns).

    Shades are shares of the true class, so that a rare class is seen as well as a common one. Of more than 40 classes,
    evenly spread ones are named.
    """
    named = np.linspace(0, len(classes) - 1, min(len(classes), MOST_NAMED)).astype(int).tolist()
    names = _legible([classes[number] for number in named], "class", named)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(12.0, 2.2 + 0.55 * len(classes))
    figure, axes = figure_of(side, side)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(named, names, rotation=45 if max(map(len, names)) > 3 else 0, ha="center")
    axes.set_yticks(named, names)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    axes.set_title(f"{int(np.trace(confusion)):,} of {int(confusion.sum()):,} right", loc="left", color=INK)
    if len(classes) <= 25:
        for row, column in np.argwhere(confusion > 0):
            colour = "white" if share[row, column] > 0.5 else INK
            axes.text(column, row, str(confusion[row, column]), ha="center", va="center", fontsize=8, color=colour)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    save(figure, path)


def draw_texts(texts: Sequence[str], path: Path) -> None:
    """Draw texts, a line each."""
    figure, axes = figure_of(7, 0.5 + 0.26 * len(texts))
    axes.set_axis_off()
    for row, text in enumerate(texts):
        axes.text(0, 1 - (row + 0.5) / len(texts), text[:90].replace("$", r"\$"), color=INK, fontsize=9, va="center")
    save(figure, path)


def draw_labels(scores: Sequence[ClassScore], labels: Sequence[str], path: Path) -> None:
    """Draw precision, recall and F1 of each label; of more than 40 labels, those with the lowest F1."""
    worst = sorted(range(len(labels)), key=lambda number: scores[number].f1)[:MOST_NAMED]
    shown = sorted(worst)
    title = "" if len(shown) == len(labels) else f"The {len(shown)} of {len(labels):,} labels with the lowest F1"
    labels = _legible([labels[number] for number in shown], "label", shown)
    scores = [scores[number] for number in shown]
    figure, axes = figure_of(7, min(14.0, 1.6 + 0.42 * len(labels)))
    axes.set_xlabel(title)
    rows = np.arange(len(labels))
    for offset, measure, colour in ((-0.25, "precision", QUIET), (0, "recall", ACCENT), (0.25, "f1", SECOND)):
        axes.barh(rows + offset, [getattr(score, measure) for score in scores], 0.22, color=colour, label=measure)
    axes.set_yticks(rows, [f"{name} ({score.support})" for name, score in zip(labels, scores, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.grid(axis="x", color="#e6e9ef")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    save(figure, path)


def draw_calibration(calibration: Mapping[str, Any], path: Path) -> None:
    """Draw how often answers are right over how sure they are, before and after the temperature is applied."""
    figure, panels = figure_of(8, 4, columns=2)
    for axes, when, colour in zip(panels, ("before", "after"), (QUIET, ACCENT), strict=True):
        bins = calibration[when]["bins"]
        sure, right = [group["confidence"] for group in bins], [group["accuracy"] for group in bins]
        ends = np.array(
            [
                [group["accuracy"] - group["accuracy_95"][0], group["accuracy_95"][1] - group["accuracy"]]
                for group in bins
            ]
        )
        axes.plot([0, 1], [0, 1], color=SECOND, linewidth=1, linestyle=":")
        axes.errorbar(sure, right, np.maximum(ends.T, 0), fmt="o", color=colour, markersize=5, linewidth=1)
        title = "as it is" if when == "before" else f"temperature {calibration['temperature']:.3g}"
        axes.set_title(f"{title}: ECE {percent(calibration[when]['ece'])}", loc="left", color=INK)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("confidence")
        axes.grid(color="#e6e9ef")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("share that is right")
    save(figure, path)


def draw_targets(truth: np.ndarray, answers: np.ndarray, targets: Sequence[str], path: Path) -> None:
    """Draw answers over truth, for up to six targets (N, K)."""
    shown = _legible(targets[:6], "target")
    figure, axes = figure_of(min(4.2 * len(shown), 16), 4.0, columns=len(shown))
    for column, (panel, name) in enumerate(zip(np.atleast_1d(axes), shown, strict=True)):
        true, answer = truth[:, column], answers[:, column]
        low, high = float(min(true.min(), answer.min())), float(max(true.max(), answer.max()))
        panel.plot([low, high], [low, high], color=SECOND, linewidth=1)
        panel.scatter(true, answer, s=6, alpha=0.5, color=ACCENT, linewidths=0)
        panel.set_title(name, loc="left", color=INK)
        panel.set_xlabel("truth")
        panel.set_ylabel("answer")
        panel.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def _legible(names: Sequence[str], kind: str, numbers: Sequence[int] | None = None) -> list[str]:
    """Replace names that the font cannot draw by their number: rows of boxes all look alike.

    A dollar would begin a formula, which matplotlib may not be able to read.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    drawn = get_font(findfont(FontProperties())).get_charmap()
    legible = [all(ord(letter) in drawn or letter.isspace() for letter in name) for name in names]
    rows = zip(numbers or range(len(names)), names, legible, strict=True)
    return [name.replace("$", r"\$") if can else f"{kind} {number}" for number, name, can in rows]


def figure_of(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure of that size, inches, and its axes: one, or an array of several columns."""
    # Figure without pyplot: no global state, no display, and half of the import time.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(1, columns)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    write_atomically(path, lambda partial: figure.savefig(partial, dpi=130, format="png"))
