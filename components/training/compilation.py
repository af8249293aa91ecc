"""Compile a network with torch."""

from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError


class CompilationFailed(UserError):
    """This network does not compile, or there is nothing to compile it with."""


class Compiled:
    """A model whose passes are compiled when they are first taken; on CUDA, with inputs of one size, into graphs.

    Args:
        varying: inputs differ in size: a graph for each would cost more than it saves.

    Raises:
        CompilationFailed: at the first pass.
    """

    def __init__(self, model: nn.Module, device: torch.device, varying: bool):
        graphs = device.type == "cuda" and not varying
        self.pass_through: Any = torch.compile(model, mode="reduce-overhead" if graphs else None)

    def __call__(self, inputs: Tensor) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.pass_through(inputs)
        except TorchDynamoException as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise CompilationFailed(f"The network does not compile: {reason}", "Leave --train.compile off.") from error
