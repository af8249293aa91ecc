"""Pictures of forecasts: the history, the truth, and fans of quantiles."""

from pathlib import Path

import numpy as np

from torchmill.components.metrics.plots import ACCENT, INK, QUIET, SECOND, figure_of, save

PAST = 4
"""Steps of the history that are drawn, as a multiple of the horizon."""


def draw_fans(past: np.ndarray, truth: np.ndarray, quantiles: np.ndarray, path: Path) -> None:
    """Draw a panel for each window.

    Args:
        past: values of the history (N, steps).
        truth: values after it (N, horizon).
        quantiles: forecasts (N, horizon, Q) in rising order; the middle one is drawn as a line.
    """
    past = past[:, -PAST * truth.shape[1] :]
    before, after = np.arange(-past.shape[1] + 1, 1), np.arange(1, truth.shape[1] + 1)
    figure, panels = figure_of(4.2 * len(past), 3.2, columns=len(past))
    middle = quantiles.shape[2] // 2
    for number, axes in enumerate(np.atleast_1d(panels)):
        for depth in range(middle):
            low, high = quantiles[number, :, depth], quantiles[number, :, -1 - depth]
            axes.fill_between(after, low, high, color=ACCENT, alpha=0.18, linewidth=0)
        axes.plot(before, past[number], color=QUIET, linewidth=1)
        axes.plot(after, quantiles[number, :, middle], color=ACCENT, linewidth=1.4, label="forecast")
        axes.plot(after, truth[number], color=SECOND, linewidth=1.2, label="truth")
        axes.axvline(0.5, color=INK, linewidth=0.6, linestyle=":")
        axes.spines[["top", "right"]].set_visible(False)
    np.atleast_1d(panels)[0].legend(frameon=False, loc="upper left")
    save(figure, path)
