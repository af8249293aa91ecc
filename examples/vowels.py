"""Nine speakers told apart by how they say two vowels: series of different lengths, and a recurrent network.

Data: JapaneseVowels of Kudo, Toyama and Shimbo (UCI), as .ts files in the package aeon: 270 series to train with and
370 to test with, of 7 to 29 steps with 12 cepstral coefficients each.

torchmill train --data examples/vowels.py:speakers --data.args.folder FOLDER --task classification \
    --model examples/vowels.py:Listener --train.epochs 60 --train.batch_size 16
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
    """An LSTM in both directions, and the mean of its steps; training adds noise, since series are few."""

    def __init__(self, num_classes, in_features, width=64, noise=0.3, dropout=0.5):
        super().__init__()
        self.noise = noise
        self.body = nn.LSTM(in_features, width, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width, num_classes))

    def forward(self, series, attention_mask):  # (N, L, 12), and 1 for a step of it, 0 for padding
        if self.training:
            series = series + self.noise * (torch.randn_like(series) + 0.5 * torch.randn_like(series[:, :1]))
        mask = attention_mask[..., None].to(series.dtype)
        states, _ = self.body(series * mask)
        return self.head((states * mask).sum(1) / mask.sum(1))
