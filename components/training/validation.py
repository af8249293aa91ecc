"""Loss and score of a network on a split."""

import torch
from torch import nn

from torchmill.components.data.samples import Samples
from torchmill.components.tasks import LabelTask
from torchmill.components.training.losses import Objective


@torch.no_grad()
def validate(
    model: nn.Module, objective: Objective, task: LabelTask, split: Samples, parts: int = 1
) -> tuple[float, float]:
    """Return mean loss and score of a split in eval mode, passed in ``parts`` parts."""
    model.eval()
    loss, score = 0.0, 0.0
    for inputs, labels in split.parts(parts):
        output = model(inputs)
        loss += objective(output, labels).item() * len(labels)
        score += task.score_sum(output, labels).item()
    return loss / len(split), score / len(split)
