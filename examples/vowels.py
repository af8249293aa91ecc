"""Nine speakers told apart by how they say two vowels: series of different lengths, and a recurrent network.

Data: JapaneseVowels of Kudo, Toyama and Shimbo (UCI), as .ts files in the package aeon: 270 series to train with and
370 to test with, of 7 to 29 steps with 12 cepstral coefficients each.

torchmill train --data examples/vowels.py:speakers --data.args.folder FOLDER --task classification \
    --model examples/vowels.py:Listener --train.epochs 80 --train.batch_size 16 --train.lr 0.008 --train.ema 0.97
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn


def speakers(folder="."):
    """Return the splits as they were published."""
    return {
        "train": read(Path(folder, "JapaneseVowels_TRAIN.ts")),
        "test": read(Path(folder, "JapaneseVowels_TEST.ts")),
    }


def read(file):
    """Return series (steps, 12) and speakers: a line has each coefficient's steps between colons, and the speaker."""
    series, labels = [], []
    for line in file.read_text("utf-8").lower().partition("@data")[2].splitlines():
        if line.strip():
            *values, speaker = line.strip().split(":")
            series.append(np.array([[float(step) for step in each.split(",") if step != "nan"] for each in values]).T)
            labels.append(speaker)
    return {"series": series, "label": labels}


class Listener(nn.Module):
    """An LSTM in each direction, and the mean of their steps; training adds noise, since series are few."""

    def __init__(self, num_classes, in_features, width=128, noise=0.6, dropout=0.5):
        super().__init__()
        self.noise = noise
        self.forwards = nn.LSTM(in_features, width, batch_first=True)
        self.backwards = nn.LSTM(in_features, width, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, num_classes))

    def forward(self, series, lengths):  # (N, L, 12), padded behind the length of each
        if self.training:
            series = series + self.noise * (torch.randn_like(series) + 0.5 * torch.randn_like(series[:, :1]))
        steps = torch.arange(series.shape[1], device=series.device)
        inside = steps < lengths[:, None]
        # Reversed within its own length: an LSTM that began with the padding would answer by its length.
        order = torch.where(inside, lengths[:, None] - 1 - steps, steps)[..., None]
        states = [self.forwards(series)[0], self.backwards(series.gather(1, order.expand_as(series)))[0]]
        return self.head((torch.cat(states, 2) * inside[..., None]).sum(1) / lengths[:, None])
