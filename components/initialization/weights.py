"""Weights of a network in a safetensors file."""

import os
import re
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from torchmill.components.errors import UserError
from torchmill.components.files import write_atomically
from torchmill.components.initialization.build import build, try_on
from torchmill.components.initialization.task_trial import try_task
from torchmill.components.initialization.uncompiled import PREFIX, plain_names
from torchmill.components.refs import DataRef, FileRef, NetworkRef


def save_weights(network: nn.Module, path: Path) -> FileRef:
    """Write the weights as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    def write(partial: Path) -> None:
        try:
            save_model(network, str(partial))
        except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from error

    write_atomically(path, write)
    return FileRef.of(path)


def restore(network: NetworkRef, weights: FileRef, data: DataRef) -> nn.Module:
    """Build a network on the CPU and load its weights.

    Raises:
        UserError: the file is missing or changed, or doesn't fit the network.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, load_model

    if not weights.path.is_file() or FileRef.of(weights.path) != weights:
        raise UserError(f"{weights.path} is missing or has changed since it was written.", "Run the training again.")
    with torch.random.fork_rng(devices=[]):
        rebuilt = build(network.reference, network.arguments, data)
        if not data.goal:
            try_on(rebuilt, network.reference, data)  # gives lazy layers their shapes
        elif any(isinstance(layer, LazyModuleMixin) for layer in rebuilt.modules()):
            try_task(rebuilt, network.reference, data)
    for name in network.frozen:
        rebuilt.get_parameter(name).requires_grad_(False)
    try:
        with safe_open(weights.path, "pt") as file:
            is_compiled = any(PREFIX in name for name in file.keys())  # noqa: SIM118 (it is no dict)
        if is_compiled:  # by a version that kept the constructor's torch.compile
            rebuilt.load_state_dict(plain_names(load_file(weights.path)))
        else:
            load_model(rebuilt, str(weights.path))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights.path} does not fit {network.reference}: {' '.join(str(error).split())}") from None
    return rebuilt
