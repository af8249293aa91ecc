"""The devices of this machine, and the one that a run uses."""

import torch

from torchmill.components.errors import UserError


def available() -> list[str]:
    """Return the types of device that this machine has, the fastest first."""
    kinds = []
    if torch.cuda.is_available():
        kinds.append("cuda")
    if torch.backends.mps.is_available():
        kinds.append("mps")
    if torch.xpu.is_available():
        kinds.append("xpu")
    return [*kinds, "cpu"]


def resolve(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the first available of cuda, mps, xpu and cpu.

    Raises:
        UserError: this machine doesn't have it.
    """
    kinds = available()
    if name == "auto":
        return torch.device(kinds[0])
    kind, _, index = name.partition(":")
    if kind not in kinds:
        raise UserError(f"Device {name} is not there; this machine has {', '.join(kinds)}.", "Try --device auto.")
    if index:
        count = torch.cuda.device_count() if kind == "cuda" else torch.xpu.device_count()
        if int(index) >= count:
            raise UserError(f"Device {name} is not there; the last one is {kind}:{count - 1}.", "Try --device auto.")
    return torch.device(name)
