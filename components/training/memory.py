"""Out-of-memory errors, which each device reports in its own words."""

import torch

from torchmill.components.errors import UserError


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that a device, or the CPU, is out of memory."""
    # The CPU's allocator and MPS raise a plain RuntimeError.
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


def free_cached_memory(device: torch.device) -> None:
    """Return the memory that torch caches to the device."""
    if device.type != "cpu":
        getattr(torch, device.type).empty_cache()


def too_little_memory() -> UserError:
    return UserError(
        "There is not enough memory for a single sample, or for the optimizer's state.",
        "Take a smaller network, an optimizer with less state, or another device.",
    )
