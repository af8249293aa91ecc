"""Forecasts of series: windows cut by time, measures beside those of naive forecasts, intervals over blocks of time."""

import math
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.components.tasks.trials import Trial
from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.errors import UserError
from torchmill.components.field_tasks.choice import for_task
from torchmill.components.field_tasks.config import TaskConfig
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.field_tasks.statistics import SampleStatistics, time_blocks
from torchmill.components.tasks.forecasting import QUANTILES, Forecasting


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> Path:
    """Hourly load of 60 days in megawatts: daily and weekly cycles, and noise that lasts."""
    rng, file = np.random.default_rng(0), tmp_path_factory.mktemp("series") / "load.csv"
    hours, noise = np.arange(24 * 60), 0.0
    lines = ["hour,load,temperature"]
    for hour in hours:
        noise = 0.7 * noise + rng.normal(0, 40)
        load = 5000 + 800 * math.sin(hour * math.tau / 24) + 300 * math.sin(hour * math.tau / 168) + noise
        lines.append(f"{datetime(2026, 1, 1) + timedelta(hours=int(hour))},{load:.1f},{rng.normal(10, 3):.1f}")
    file.write_text("\n".join(lines))
    return file


@pytest.fixture(scope="module")
def trial(load, tmp_path_factory) -> Trial:
    from torchmill.components.data.fetch import fetch

    folder = tmp_path_factory.mktemp("forecasting")
    data = fetch(f"series:{load}", folder / "cache", args={"target": "load", "horizon": 12, "context": 48})
    return Trial.with_data(folder, data, "forecasting", "tcn", model_args={"width": 16, "layers": 5})


def test_a_network_beats_the_naive_forecasts_in_the_targets_own_units(trial):
    assert (trial.data.goal.measure, trial.data.goal.better) == ("mase", "lower")
    trial.train(60)
    report = trial.evaluate()
    assert report["mase"] < min(report["naive_mase"], report["seasonal_naive_mase"])
    assert report["mase_95"][0] < report["mase"] < report["mase_95"][1]
    assert 0.7 < report["coverage"] <= 1
    assert 10 < report["mae"] < 200
    assert "forecasts.png" in report["pictures"]
    _, answers = trial.export()
    assert answers["forecast"].shape == (8, 12) and answers["quantiles"].shape == (8, 12, len(QUANTILES))
    assert 3000 < answers["forecast"].mean() < 7000
    assert (np.diff(answers["quantiles"], axis=2) >= 0).all()


def test_the_season_is_that_of_the_series_unless_the_user_sets_another(trial):
    assert trial.task.task.season == 24
    other = for_task(trial.data, TaskConfig(name="forecasting", args={"season": 6}))
    assert FieldTask.open(other).task.season == 6


def fields(horizon: int = 3, steps: int = 8, **more) -> dict[str, FieldRef]:
    common = {"kind": "values", "dtype": "float32"}
    return {
        "history": FieldRef(name="history", file="history", shape=(2, steps), **common),
        "future": FieldRef(
            name="future", file="future", shape=(horizon,), mean=(100.0,), std=(10.0,), is_target=True, **common
        ),
    } | more


@pytest.fixture
def batch() -> Batch:
    rng = torch.Generator().manual_seed(0)
    return Batch.of({"history": torch.randn(50, 2, 8, generator=rng), "future": torch.randn(50, 3, generator=rng)})


def test_measures_are_those_of_their_definitions(batch):
    task = Forecasting(fields(), season=2)
    rng = torch.Generator().manual_seed(1)
    output = torch.randn(50, 3, len(QUANTILES), generator=rng)
    answer = task.predict(lambda _: output, batch)
    means = {name: values.double().mean(0) for name, values in task.measure(answer, batch).items()}
    measures = task.summarize(means)
    past, truth = batch["history"][:, 0].numpy(), batch["future"].numpy()
    quantiles = np.sort(output.numpy(), 2) * 10 + 100
    scale = np.mean([np.abs(row[2:] - row[:-2]).mean() for row in past])
    losses = [
        max(share * (y - q), (share - 1) * (y - q))
        for row, line in zip(truth, quantiles, strict=True)
        for y, band in zip(row, line, strict=True)
        for share, q in zip(QUANTILES, band, strict=True)
    ]
    seasonal = np.stack([past[:, 6], past[:, 7], past[:, 6]], 1)
    inside = (quantiles[:, :, 0] <= truth) & (truth <= quantiles[:, :, -1])
    expected = {
        "mase": np.abs(quantiles[:, :, 2] - truth).mean() / scale,
        "naive_mase": np.abs(past[:, -1:] - truth).mean() / scale,
        "seasonal_naive_mase": np.abs(seasonal - truth).mean() / scale,
        "mae": np.abs(quantiles[:, :, 2] - truth).mean(),
        "pinball": np.mean(losses),
        "coverage": inside.mean(),
    }
    assert {name: float(value) for name, value in measures.items()} == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_in_units_of_the_targets_deviation(batch):
    task = Forecasting(fields())
    scaled = (batch["future"] - 100) / 10
    torch.testing.assert_close(task.loss(lambda _: scaled + 0.5, batch), torch.tensor(0.5))
    quantiles = scaled[:, :, None].expand(-1, -1, len(QUANTILES)) - 1  # each is too low by one deviation
    torch.testing.assert_close(task.loss(lambda _: quantiles, batch), torch.tensor(0.5))


def test_a_forecast_without_quantiles_has_no_coverage(batch):
    task = Forecasting(fields())
    answer = task.predict(lambda _: torch.zeros(50, 3), batch)
    assert answer.keys() == {"forecast"} and (answer["forecast"] == 100).all()
    assert "coverage" not in task.summarize({k: v.double().mean(0) for k, v in task.measure(answer, batch).items()})


def test_misfits_are_told(batch):
    with pytest.raises(UserError, match=r"gives \(50, 4\); expected a forecast \(N, 3\), or the quantiles"):
        Forecasting(fields()).predict(lambda _: torch.zeros(50, 4), batch)
    with pytest.raises(UserError, match="A season of 8 steps needs a longer history than 8"):
        Forecasting(fields(), season=8)
    with pytest.raises(UserError, match="has 2 channels, and no number 2"):
        Forecasting(fields(), channel=2)
    with pytest.raises(UserError, match=r"the fields are history \(values, float32 2x8\)\."):
        Forecasting({"history": fields()["history"]})


def test_intervals_over_blocks_of_time_are_wider_than_those_over_samples():
    steps = np.random.default_rng(0).normal(size=1000)
    lasting = np.convolve(steps, np.ones(20) / 20, "valid")  # neighbours share most of their parts, as windows do
    statistics = SampleStatistics(lambda means: {name: float(value) for name, value in means.items()})
    statistics.add({"x": torch.from_numpy(lasting)})
    blocks = time_blocks(len(lasting), 12)
    assert (np.diff(blocks) >= 0).all() and np.bincount(blocks).min() >= 31
    low, high = statistics.intervals()["x"]
    block_low, block_high = statistics.intervals(blocks)["x"]
    assert block_high - block_low > 2 * (high - low)
    mean_of_blocks = np.std([lasting[start : start + 32].mean() for start in range(0, 960, 32)]) / math.sqrt(30)
    assert block_high - block_low == pytest.approx(2 * 1.96 * mean_of_blocks, rel=0.25)


def test_blocks_hold_a_horizon_at_least(caplog):
    assert np.bincount(time_blocks(100, 48)).tolist() == [48, 52]
    assert "rough" in caplog.text
    assert np.bincount(time_blocks(5, 48)).tolist() == [5]
