"""Compilation of a network by torch."""

from typing import Any

import torch
from torch import nn

from torchmill.components.errors import UserError


class CompilationFailed(UserError):
    """The network doesn't compile, or the machine has no compiler."""


class Compiled:
    """A model that torch compiles at its first pass; on CUDA into graphs, if all inputs have one shape.

    Args:
        varying: input shapes vary. A CUDA graph per shape would then cost more than it saves.

    Raises:
        CompilationFailed: at the first pass.
    """

    def __init__(self, model: nn.Module, device: torch.device, varying: bool):
        graphs = device.type == "cuda" and not varying
        self.model = model
        self.compiled: Any = torch.compile(model, mode="reduce-overhead" if graphs else None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.compiled(*inputs, **named)
        except TorchDynamoException as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CompilationFailed(f"The network does not compile: {reason}", "Leave --train.compile off.") from error
