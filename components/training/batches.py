"""The batches of an epoch: which samples, in which order."""

from collections.abc import Sequence

import torch
from torch import Tensor

from torchmill.components.training.config import USUAL_BATCH_SIZE, TrainConfig

LENGTH_WINDOW = 32
"""Batches of sequences that are sorted by length together."""


def batch_size_of(config: TrainConfig) -> int:
    """Return the batch size; the usual one as long as ``auto`` is not resolved."""
    return USUAL_BATCH_SIZE if config.batch_size is None else config.batch_size


def epoch_batches(
    samples: int, batch_size: int, seed: int, epoch: int, smallest: int = 2, lengths: Tensor | None = None
) -> Sequence[Tensor]:
    """Return the sample indices of each batch: a function of seed and epoch alone.

    Args:
        smallest: a last batch with fewer samples is left out, because batch norm can't train on a single one. Each
            epoch leaves out other samples.
        lengths: lengths of sequences, (samples,). Sequences of similar length then share a batch, which saves
            computation on padding: a random order is sorted within windows of ``LENGTH_WINDOW`` batches.
    """
    rng = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(samples, generator=rng)
    if lengths is not None:
        windows = order.split(LENGTH_WINDOW * batch_size)
        order = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows])
    batches = order.split(batch_size)
    batches = batches[:-1] if len(batches) > 1 and len(batches[-1]) < smallest else batches
    if lengths is None:
        return batches
    # Shuffle within each batch, too: processes that share it then get long and short sequences alike.
    shuffled = [batch[torch.randperm(len(batch), generator=rng)] for batch in batches]
    return [shuffled[number] for number in torch.randperm(len(shuffled), generator=rng).tolist()]
