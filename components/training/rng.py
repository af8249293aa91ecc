"""The sources of chance that a network may draw from while it trains."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch on all devices, Python and NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def random_states(device: torch.device) -> dict[str, Any]:
    """Give the states of all sources as tensors and plain values, which a checkpoint may hold."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # the global one: a network may use it
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(*_card(device))
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Put all sources back to where they were; one of another kind of device is left out."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type], *_card(device))


def _card(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # of which there is one
