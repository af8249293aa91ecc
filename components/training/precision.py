"""The numbers that a training computes with."""

import contextlib
import warnings
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchmill.components.errors import UserError
from torchmill.components.training.config import Precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(name: Precision, device: torch.device) -> Precision:
    """Give the precision of that name; ``auto`` is bf16 on cards that compute in it, and fp32 elsewhere.

    Processors, too, have bf16, but there it is the network that decides whether it is faster.

    Raises:
        UserError: the card knows no bf16.
    """
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bf16" if device.type in ("cuda", "xpu") and has_bf16 else "fp32"
    if name == "bf16" and not has_bf16:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} does not compute in bf16.", "Take --train.precision fp16."
        )
    return name


class Arithmetic:
    """Mixed precision: what torch deems safe is computed in 16 bits, weights and their updates stay fp32.

    Gradients of fp16 are scaled lest they vanish; where they overflow, the step is left out and the scale halved
    (Micikevicius et al. 2018).
    """

    def __init__(self, name: Precision, device: torch.device):
        dtype = DTYPES[resolve_precision(name, device)]
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def computing(self) -> AbstractContextManager[object]:
        """Within it, networks and losses compute in this precision."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Have the gradients as they are, before anything looks at their size."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step, unless a gradient overflowed."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def advance(self, schedule: LRScheduler) -> None:
        """Take the schedule's step, also behind one of the optimizer's that was left out, of which torch warns."""
        if not self.scaler.is_enabled():
            schedule.step()
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            schedule.step()
