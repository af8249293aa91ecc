"""Mixed precision: which floating-point type a training computes in."""

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
    """Return the precision; ``auto`` is bf16 on graphics cards that compute in it, and fp32 elsewhere.

    CPUs have bf16 too, but it depends on the network whether it is faster there.

    Raises:
        UserError: the card doesn't compute in bf16.
    """
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bf16" if device.type in ("cuda", "xpu") and has_bf16 else "fp32"
    if name == "bf16" and not has_bf16:
        raise UserError(
            f"{torch.cuda.get_device_name(device)} does not compute in bf16.", "Take --train.precision fp16."
        )
    return name


class MixedPrecision:
    """Autocast and loss scaling: torch runs the operations that are safe in 16 bits, and weights stay fp32.

    In fp16 the loss is scaled so that small gradients don't vanish. If a gradient overflows, the step is skipped and
    the scale is halved (Micikevicius et al. 2018).
    """

    def __init__(self, name: Precision, device: torch.device):
        dtype = DTYPES[resolve_precision(name, device)]
        self.device, self.dtype = device, dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which networks and losses compute in this precision."""
        if self.dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the loss scale; required before clipping."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """Step the optimizer, unless a gradient overflowed."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def step_schedule(self, schedule: LRScheduler) -> None:
        """Step the schedule, even after a skipped optimizer step, without torch's warning about it."""
        if not self.scaler.is_enabled():
            schedule.step()
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            schedule.step()
