"""The user's own loss: ``--train.loss file.py:Name``, a class or a function of outputs and labels."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError
from torchmill.components.initialization.build import find
from torchmill.components.user_code.call import call, fitting_arguments
from torchmill.components.user_code.importing import first_hand

ARGUMENTS = "--train.loss_args"


def user_loss(reference: str, arguments: Mapping[str, object]) -> nn.Module:
    """Make the user's loss. A class gets the arguments once, a function with each call.

    Raises:
        UserError: there is no such loss, it doesn't take an argument, or the class can't be instantiated.
    """
    loss, place = find(reference), f"The loss {reference}"
    if inspect.isclass(loss):
        return UserLoss(reference, call(loss, arguments, place, ARGUMENTS))
    # The two positional arguments are outputs and labels.
    return UserLoss(reference, partial(loss, **fitting_arguments(loss, arguments, place, ARGUMENTS, positional=2)))


class UserLoss(nn.Module):
    """The user's loss as a module. If it is a module itself, its buffers move to the device."""

    def __init__(self, reference: str, criterion: Callable[[Tensor, Tensor], object]):
        super().__init__()
        self.reference, self.criterion = reference, criterion

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        try:
            value = self.criterion(outputs, labels)
        except Exception as error:  # a user's loss can raise anything
            shapes = f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)}"
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise
            raise UserError(f"The loss {self.reference} fails on {shapes}: {first_hand(error)}") from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            returned = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(
                f"The loss {self.reference} gives {returned}; expected one number.", "Take the mean over samples."
            )
        return value.reshape(())
