"""How good is a network at a task over named fields: measures with intervals, from statistics of each test sample."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from torchmill.components.data.field_samples import FieldSamples
from torchmill.components.evaluation.analysis.worst_samples import draw_worst, told, worst_rows
from torchmill.components.field_tasks.field_task import LOSS, FieldTask
from torchmill.components.field_tasks.statistics import SampleStatistics, time_blocks, write_statistics
from torchmill.components.files import write_text
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.metrics.plots import ACCENT, INK, figure_of, save
from torchmill.components.refs import DataRef, EvaluationRef, FileRef

STATISTICS = "statistics.npz"
"""File with the statistics of each test sample."""

DRAWN = 16
"""Test samples that a task draws."""


@torch.no_grad()
def evaluate_fields(
    network: nn.Module, test: FieldSamples, data: DataRef, device: torch.device, batch_size: int, folder: Path
) -> EvaluationRef:
    """Measure a network on the test split; writes ``evaluation.json``, ``statistics.npz`` and pictures into ``folder``.

    Losses that draw random numbers draw the same ones each time.
    """
    task, model = FieldTask.open(data), FieldsModel.of(network, data).to(device).eval()
    statistics, losses = task.statistics(), []
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        for raw in test.to(device).batches(batch_size):
            batch = task.drawn(model.prepared(raw))
            losses.append((sum(task.loss(model, batch, phase)[0].item() for phase in task.phase_names), raw.size))
            statistics.add(task.measured(model, batch))
        spread = torch.linspace(0, len(test) - 1, min(DRAWN, len(test))).long()
        some = task.drawn(model.prepared(test.to(device).take(spread)))
        drawn = task.draw(model, some, folder)
    loss = sum(value * size for value, size in losses) / len(test)
    blocks = time_blocks(len(test), task.block) if task.block else None
    measures, intervals = statistics.measures(), statistics.intervals(blocks)
    if task.main_measure not in measures:
        measures, intervals = {LOSS: loss, **measures}, {LOSS: _spread(losses, loss), **intervals}
    name = task.main_measure
    write_statistics(folder / STATISTICS, statistics.arrays)
    draw_statistics(statistics.arrays, folder / "statistics.png")
    worst = worst_rows(task, statistics.arrays)
    bad = draw_worst(task, model, test.to(device), list(worst), folder, drawn)
    pictures = [*drawn, *bad, folder / "statistics.png"]
    others = {key: value for key, value in measures.items() if key != name}
    report = {
        "samples": len(test),
        "measure": name,
        "field_task": data.goal.title if data.goal else "",
        name: measures[name],
        f"{name}_95": list(intervals[name]),
        **others,
        **{f"{key}_95": list(intervals[key]) for key in others},
        "loss": loss,
        "worst": told(worst, data),
        "pictures": [path.name for path in pictures],
    }
    write_text(folder / "evaluation.json", json.dumps(report, indent=1))
    files = [FileRef.of(path) for path in pictures]
    return EvaluationRef(
        measure=name,
        score=measures[name],
        score_low=intervals[name][0],
        score_high=intervals[name][1],
        others=others,
        loss=loss,
        samples=len(test),
        report=FileRef.of(folder / "evaluation.json"),
        picture=files[0],
        pictures=tuple(files[1:]),
        predictions=FileRef.of(folder / STATISTICS),
    )


def _spread(losses: list[tuple[float, int]], loss: float) -> tuple[float, float]:
    """Return the interval of a loss that has no value for each sample, from its batches."""
    values, sizes = (np.array(column, np.float64) for column in zip(*losses, strict=True))
    statistics = SampleStatistics(lambda means: {LOSS: float(means["sum"] / means["size"])})
    statistics.add({"sum": torch.from_numpy(values * sizes), "size": torch.from_numpy(sizes)})
    return statistics.intervals()[LOSS] if len(values) > 1 else (loss, loss)


def draw_statistics(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Draw the distribution of each statistic that is one number a sample."""
    numbers = {name: values for name, values in arrays.items() if values.ndim == 1} or {
        name: values.reshape(len(values), -1).mean(1) for name, values in arrays.items()
    }
    varying = {name: values for name, values in numbers.items() if np.ptp(values) > 0}
    shown = dict(list((varying or numbers).items())[:4])
    figure, panels = figure_of(3.2 * len(shown), 2.8, columns=len(shown))
    for axes, (name, values) in zip(np.atleast_1d(panels), shown.items(), strict=True):
        axes.hist(values[np.isfinite(values)], bins=40, color=ACCENT)
        axes.set_title(name.replace("_", " "), loc="left", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)
