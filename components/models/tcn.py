"""Dilated causal convolutions over a series' history, which correct the last season's values."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TASKS = ("forecasting",)
INITIALIZATION = "none"


class Tcn(nn.Module):
    """Residual layers of convolutions that see no later step, with gaps that double (Bai et al. 2018).

    The network adds its outputs to the last season's values. So forecasts follow a trend beyond the training data.
    With 6 layers each forecast depends on the last 127 steps.

    Args:
        in_channels: columns of the history.
        horizon: steps to forecast.
        season: steps of a season; 1 repeats the last value.
        quantiles: number of quantiles of each step; 1 gives the forecast alone.
        width: channels of the layers.
        layers: number of layers.
        dropout: dropout rate.
    """

    def __init__(
        self,
        in_channels: int,
        horizon: int,
        season: int = 1,
        quantiles: int = 5,
        width: int = 32,
        layers: int = 6,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.horizon, self.season, self.quantiles = horizon, season, quantiles
        self.input = nn.Conv1d(in_channels, width, 1)
        self.layers = nn.ModuleList(Layer(width, 2**number, dropout) for number in range(layers))
        self.output = nn.Linear(width, horizon * quantiles)
        nn.init.zeros_(self.output.bias)
        nn.init.normal_(self.output.weight, std=0.1 / width**0.5)

    def forward(self, history: Tensor) -> Tensor:
        """Return the forecast (N, horizon), or its quantiles (N, horizon, quantiles).

        Args:
            history: (N, columns, context), with the column to forecast first.
        """
        hidden = self.input(history)
        for layer in self.layers:
            hidden = layer(hidden)
        changes = self.output(hidden[:, :, -1]).unflatten(1, (self.horizon, self.quantiles))
        season = min(self.season, history.shape[2])
        places = torch.arange(self.horizon, device=history.device) % season + history.shape[2] - season
        forecast = history[:, 0, places][:, :, None] + changes
        return forecast if self.quantiles > 1 else forecast[:, :, 0]


class Layer(nn.Module):
    """A causal convolution of three steps with gaps, added to its input."""

    def __init__(self, width: int, gap: int, dropout: float):
        super().__init__()
        self.gap = gap
        self.norm = nn.BatchNorm1d(width)
        self.steps = nn.Conv1d(width, width, 3, dilation=gap)
        self.mixed = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        padded = F.pad(self.norm(hidden), (2 * self.gap, 0))
        return hidden + self.dropout(self.mixed(F.gelu(self.steps(padded))))
