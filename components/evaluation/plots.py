"""Pictures of a run: statistics of layers, curves of training, the search for a learning rate."""

from collections.abc import Sequence
from pathlib import Path

from torchmill.components.initialization.statistics import LayerStatistics
from torchmill.components.metrics.plots import ACCENT, INK, QUIET, SECOND, figure_of, save
from torchmill.components.tasks import title
from torchmill.components.training.progress import EpochResult

MOST_LAYERS = 60


def draw_layers(statistics: Sequence[LayerStatistics], path: Path) -> None:
    """Draw the deviations of weights and outputs of each layer, before and after initialisation."""
    shown = statistics[:MOST_LAYERS]
    figure, (weights_axes, outputs_axes) = figure_of(11, 1.4 + 0.26 * len(shown), columns=2)
    rows = range(len(shown))
    titles = "deviation of weights", "deviation of outputs"
    panels = zip((weights_axes, outputs_axes), titles, ("std", "output_std"), strict=True)
    for axes, heading, statistic in panels:
        for when, colour in (("before", QUIET), ("after", ACCENT)):
            values = [getattr(getattr(layer, when), statistic) for layer in shown]
            places = [(value, row) for value, row in zip(values, rows, strict=True) if value]
            axes.plot(*zip(*places, strict=True) if places else ((), ()), "o", color=colour, markersize=6, label=when)
            if places:  # matplotlib can't scale an empty axis
                axes.set_xscale("log")
        axes.set_yticks(rows, [layer.after.layer or "the network" for layer in shown] if axes is weights_axes else [])
        axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)  # a network may have no layer to fill
        axes.set_title(heading, loc="left", color=INK)
        axes.grid(axis="x", color="#e6e9ef")
        axes.spines[["top", "right"]].set_visible(False)
    outputs_axes.legend(frameon=False)
    save(figure, path)


def draw_curves(history: Sequence[EpochResult], path: Path) -> None:
    """Draw loss and score of training and validation over the epochs."""
    epochs = [row.epoch for row in history]
    figure, (loss_axes, score_axes) = figure_of(9, 3.6, columns=2)
    for axes, measure in ((loss_axes, "loss"), (score_axes, history[0].measure)):
        for split, colour in (("train", QUIET), ("validation", ACCENT)):
            values = [row.metrics().get(f"{split}_{measure}") for row in history]
            if None in values:  # only validation has scores
                continue
            axes.plot(epochs, values, color=colour, linewidth=2, marker="o", markersize=3, label=split)
        best = next((row.epoch for row in reversed(history) if row.is_best), None)
        if best is not None:
            axes.axvline(best, color=SECOND, linewidth=1, linestyle=":", label="best")
        axes.set_title(title(measure), loc="left", color=INK)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color="#e6e9ef")
        axes.spines[["top", "right"]].set_visible(False)
    score_axes.legend(frameon=False)
    save(figure, path)


def draw_rates(rates: Sequence[float], losses: Sequence[float], best: float, path: Path) -> None:
    """Draw the loss over learning rates, and the one that was best."""
    figure, axes = figure_of(7, 3.6)
    axes.plot(rates, losses, color=ACCENT, linewidth=2)
    axes.axvline(best, color=SECOND, linewidth=1.5, linestyle=":")
    axes.annotate(f"{best:g}", (best, max(losses)), color=SECOND, xytext=(5, -8), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_title("loss over the learning rate", loc="left", color=INK)
    axes.set_xlabel("learning rate")
    axes.grid(axis="y", color="#e6e9ef")
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
