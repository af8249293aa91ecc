"""The next steps of a series, with quantiles if the network gives some."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output
from torchmill.components.errors import UserError
from torchmill.components.metrics.series_plot import draw_fans

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEDIAN = QUANTILES.index(0.5)

DRAWN = 4
"""Windows that are drawn."""


class Forecasting:
    """Loss: pinball loss of the quantiles 5, 25, 50, 75 and 95 % if the network gives (N, horizon, 5).

    For a forecast (N, horizon) it is the mean absolute error. Networks answer in units of the target's deviation, from
    its mean; both are of the training split.

    Measures:

    - ``mase`` (the main one, lower is better): mean absolute error, divided by the mean absolute change from one season
      to the next within the history (Hyndman & Koehler 2006). It is the ratio of means over all windows.
    - ``naive_mase`` and ``seasonal_naive_mase``: the same of the last value and of the last season, repeated.
    - ``mae``: mean absolute error in the target's units.
    - ``pinball``, of quantiles: mean loss of the quantiles in the target's units.
    - ``coverage``, of quantiles: share of values between the lowest and the highest one, 90 % at best.

    Windows overlap, so intervals draw blocks of windows that follow each other.

    Args:
        season: steps of a season; that of a time series by default, or else 1.
        channel: channel of the history that is forecast.
    """

    main_measure, better = "mase", "lower"

    def __init__(self, fields: Mapping[str, FieldRef], season: int = 1, channel: int = 0):
        targets = [field for field in fields.values() if field.is_target and field.kind == "values"]
        histories = [field for field in inputs_of(list(fields.values())) if field.kind == "values" and field.shape]
        if len(targets) != 1 or len(targets[0].shape) != 1 or not histories:
            raise UserError(
                f"Forecasting needs a history and a target of the steps to forecast; the fields are "
                f"{', '.join(field.words() for field in fields.values())}.",
                "Use series:FILE.csv, or return {'history': float32 (N, channels, L), 'target': float32 (N, horizon)}.",
            )
        self.target, self.history = targets[0], max(histories, key=lambda field: field.shape[-1])
        self.horizon, self.block = self.target.shape[0], self.target.shape[0]
        self.season, self.channel = season, channel
        steps, channels = self.history.shape[-1], self.history.shape[0] if len(self.history.shape) > 1 else 1
        if not 1 <= season < steps:
            raise UserError(
                f"A season of {season} steps needs a longer history than {steps} steps.", "Set --task.args.season."
            )
        if not 0 <= channel < channels:
            raise UserError(f"The history has {channels} channels, and no number {channel}.", "They count from 0.")
        self.mean, self.std = list(self.target.mean), [value or 1.0 for value in self.target.std]

    @staticmethod
    def fits(target: FieldRef) -> str:
        return "are the next steps of a time series" if target.season else ""

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor:
        output = self._output(network, batch)
        truth = (batch[self.target.name] - output.new_tensor(self.mean)) / output.new_tensor(self.std)
        return _pinball(output, truth).mean() if output.dim() == 3 else (output - truth).abs().mean()

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``forecast`` (N, horizon) and rising ``quantiles`` (N, horizon, 5), in the target's units."""
        output = self._output(network, inputs)
        mean, std = output.new_tensor(self.mean), output.new_tensor(self.std)
        if output.dim() == 2:
            return {"forecast": output * std + mean}
        quantiles = output.sort(2).values * std[:, None] + mean[:, None]
        return {"forecast": quantiles[:, :, MEDIAN], "quantiles": quantiles}

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        truth, past = batch[self.target.name], self._past(batch)
        places = torch.arange(self.horizon, device=past.device) % self.season - self.season
        statistics = {
            "error": (answer["forecast"] - truth).abs().mean(1),
            "naive_error": (past[:, -1:] - truth).abs().mean(1),
            "seasonal_error": (past[:, places] - truth).abs().mean(1),
            "seasonal_change": (past[:, self.season :] - past[:, : -self.season]).abs().mean(1),
        }
        if "quantiles" in answer:
            low, high = answer["quantiles"][:, :, 0], answer["quantiles"][:, :, -1]
            statistics["pinball"] = _pinball(answer["quantiles"], truth).mean((1, 2))
            statistics["covered"] = ((low <= truth) & (truth <= high)).double().mean(1)
        return statistics

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scale = means["seasonal_change"].clamp(min=1e-12)
        measures = {
            "mase": means["error"] / scale,
            "naive_mase": means["naive_error"] / scale,
            "seasonal_naive_mase": means["seasonal_error"] / scale,
            "mae": means["error"],
        }
        bands = {"pinball": means["pinball"], "coverage": means["covered"]} if "covered" in means else {}
        return measures | bands

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw some windows with their forecasts, and the bands between quantiles."""
        answer = self.predict(network, batch)
        rows = torch.linspace(0, batch.size - 1, min(DRAWN, batch.size)).long()
        quantiles = answer.get("quantiles", answer["forecast"][:, :, None])
        path = folder / "forecasts.png"
        draw_fans(
            *(values.cpu()[rows].numpy() for values in (self._past(batch), batch[self.target.name], quantiles)), path
        )
        return [path]

    def _past(self, batch: Batch) -> Tensor:
        """Return the history of the target in its own units, (N, steps)."""
        past = batch.raw[self.history.name]
        return past if past.dim() == 2 else past[:, self.channel]

    def _output(self, network: torch.nn.Module, inputs: Batch) -> Tensor:
        output = main_output(network(inputs), "quantiles", "forecast")
        if output.shape[1:] not in ((self.horizon,), (self.horizon, len(QUANTILES))):
            raise UserError(
                f"The network gives {tuple(output.shape)}; expected a forecast (N, {self.horizon}), or the quantiles "
                f"{', '.join(map(str, QUANTILES))} of each step, (N, {self.horizon}, {len(QUANTILES)}).",
                "Take horizon in its constructor.",
            )
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def _pinball(quantiles: Tensor, truth: Tensor) -> Tensor:
    """Return the pinball loss of quantiles (N, horizon, 5), of the same shape (Koenker & Bassett 1978)."""
    shares = quantiles.new_tensor(QUANTILES)
    over = truth[:, :, None] - quantiles
    return torch.maximum(shares * over, (shares - 1) * over)
