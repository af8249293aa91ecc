"""Snapshot of everything that an examination may change, and its restoration."""

import collections
import contextlib
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (list, dict, set, collections.deque)
# Packages whose objects hold no state of the network.
FOREIGN = (
    "builtins",
    "torch",
    "numpy",
    "collections",
    "functools",
    "typing",
    "threading",
    "logging",
    "types",
    "weakref",
)


class Snapshot:
    """Weights, buffers, gradients, modes, hooks and attributes of a network and of its unregistered layers.

    Copies the bytes of the tensors' storages, so expanded and overlapping tensors are restored exactly. Copies no
    modules, so networks that ``copy.deepcopy`` refuses work too.
    """

    def __init__(self, network: nn.Module):
        self._seen: set[int] = set()
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor, bool, Tensor | None]] = []
        self._storages: dict[int, tuple[Tensor, Tensor]] = {}
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._save(network)

    def _save(self, root: object) -> None:
        pending = [root]
        while pending:
            value = pending.pop()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if isinstance(value, Tensor):
                self._save_tensor(value)
                pending.append(value.grad if value.is_leaf else None)
                pending.extend(vars(value).values())
            elif isinstance(value, np.ndarray):
                self._arrays.append((value, value.copy()))
            elif isinstance(value, torch.Generator):
                self._generators.append((value, value.get_state()))
            elif isinstance(value, CONTAINERS):
                self._containers.append((value, value.copy()))
                pending.extend(value.values() if isinstance(value, dict) else value)
            elif isinstance(value, tuple):
                pending.extend(value)
            elif has_own_state(value):
                self._attributes.append((value, dict(vars(value))))
                pending.extend(vars(value).values())
                pending.extend(_class_containers(value))

    def _save_tensor(self, tensor: Tensor) -> None:
        gradient = tensor.grad if tensor.is_leaf else None
        self._tensors.append((tensor, tensor.detach(), tensor.requires_grad, gradient))
        storage = _storage_bytes(tensor)
        if storage is not None and storage.data_ptr() not in self._storages:
            self._storages[storage.data_ptr()] = (storage, storage.clone())

    def restore(self) -> None:
        """Restore the saved state byte for byte."""
        for value, attributes in self._attributes:
            current = vars(value)
            if list(current) != list(attributes) or any(current[name] is not attributes[name] for name in current):
                current.clear()
                current.update(attributes)
        for container, contents in self._containers:
            container.clear()
            (container.extend if isinstance(container, (list, collections.deque)) else container.update)(contents)
        for tensor, data, requires_grad, gradient in self._tensors:
            if not _is_same_view(tensor, data):
                tensor.data = data
            if tensor.is_leaf:
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
                if tensor.grad is not gradient:
                    tensor.grad = gradient
        # Write only the differences: the memory of a tensor may be read-only.
        for current, saved in self._storages.values():
            if not torch.equal(current, saved):
                current.copy_(saved)
        for array, saved in self._arrays:
            if not np.array_equal(array, saved, equal_nan=array.dtype.kind == "f"):
                array[...] = saved
        for generator, state in self._generators:
            generator.set_state(state)


def _storage_bytes(tensor: Tensor) -> Tensor | None:
    """Return a byte tensor over the whole storage of a tensor; None if it has none."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return None
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _is_same_view(tensor: Tensor, data: Tensor) -> bool:
    if tensor.layout is not torch.strided:
        return tensor.layout is data.layout
    same_form = tensor.dtype == data.dtype and tensor.shape == data.shape and tensor.device == data.device
    return same_form and tensor.data_ptr() == data.data_ptr() and tensor.stride() == data.stride()


def has_own_state(value: object) -> bool:
    """Return True for modules and for objects of the user's classes: a forward may change their attributes."""
    if isinstance(value, nn.Module):
        return True
    return (
        not isinstance(value, type)
        and type(getattr(value, "__dict__", None)) is dict
        and type(value).__module__.partition(".")[0] not in FOREIGN
    )


def _class_containers(value: object) -> list[object]:
    """Return the containers that all objects of a user's class share, for example a cache."""
    classes = [kind for kind in type(value).__mro__ if kind.__module__.partition(".")[0] not in FOREIGN]
    attributes = [(name, attribute) for kind in classes for name, attribute in vars(kind).items()]
    return [value for name, value in attributes if isinstance(value, CONTAINERS) and not name.startswith("__")]


@contextlib.contextmanager
def preserved_state(network: nn.Module) -> Generator[Snapshot]:
    """Restore the network, the global random states, the gradient mode and the default dtype on exit.

    Restores them after an exception too.
    """
    snapshot = Snapshot(network)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    dtype, grad_enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    anomaly, anomaly_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield snapshot
    finally:
        snapshot.restore()
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad_enabled)
        torch.autograd.set_detect_anomaly(anomaly, anomaly_nan)
