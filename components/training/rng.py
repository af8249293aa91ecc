"""Random number generators that a network may draw from in training: torch's, Python's and NumPy's."""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed torch on all devices, Python and NumPy."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # it would note a stack trace for each kind of device that may come, which takes a hundred times as long
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def rng_states(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators, as tensors and plain values for a checkpoint."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # global, since a network may use it
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
    }
    if device.type != "cpu":
        states[device.type] = getattr(torch, device.type).get_rng_state(*_device_argument(device))
    return states


def set_rng_states(states: dict[str, Any], device: torch.device) -> None:
    """Restore all generators; the state of another type of device is ignored."""
    torch.set_rng_state(states["torch"])
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type], *_device_argument(device))


def _device_argument(device: torch.device) -> tuple[torch.device, ...]:
    return () if device.type == "mps" else (device,)  # torch.mps has a single device and takes no argument
