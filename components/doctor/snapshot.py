"""Keep everything that looking at a network may change, and put it back."""

import collections
import contextlib
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONTAINERS = (list, dict, set, collections.deque)
# Whose objects hold no state of the network.
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
    """The state of a network: weights, buffers, gradients, modes, hooks and attributes, also of unregistered layers.

    Works on the bytes of the tensors' storages, so that expanded and overlapping tensors come back as they were.
    Nothing is copied structurally: networks that can't be deep-copied are kept as well.
    """

    def __init__(self, network: nn.Module):
        self._seen: set[int] = set()
        self._attributes: list[tuple[Any, dict[str, Any]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._tensors: list[tuple[Tensor, Tensor, bool, Tensor | None]] = []
        self._storages: dict[int, tuple[Tensor, Tensor]] = {}
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._generators: list[tuple[torch.Generator, Tensor]] = []
        self._keep(network)

    def _keep(self, root: object) -> None:
        pending = [root]
        while pending:
            value = pending.pop()
            if id(value) in self._seen:
                continue
            self._seen.add(id(value))
            if isinstance(value, Tensor):
                self._keep_tensor(value)
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
                pending.extend(_of_classes(value))

    def _keep_tensor(self, tensor: Tensor) -> None:
        gradient = tensor.grad if tensor.is_leaf else None
        self._tensors.append((tensor, tensor.detach(), tensor.requires_grad, gradient))
        raw = _bytes_of(tensor)
        if raw is not None and raw.data_ptr() not in self._storages:
            self._storages[raw.data_ptr()] = (raw, raw.clone())

    def restore(self) -> None:
        """Put everything back, byte for byte."""
        for value, attributes in self._attributes:
            now = vars(value)
            if list(now) != list(attributes) or any(now[name] is not attributes[name] for name in now):
                now.clear()
                now.update(attributes)
        for container, contents in self._containers:
            container.clear()
            (container.extend if isinstance(container, (list, collections.deque)) else container.update)(contents)
        for tensor, data, requires_grad, gradient in self._tensors:
            if not _looks_at_the_same(tensor, data):
                tensor.data = data
            if tensor.is_leaf:
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
                if tensor.grad is not gradient:
                    tensor.grad = gradient
        # Only what differs is written: a tensor may look at memory that can only be read.
        for now, before in self._storages.values():
            if not torch.equal(now, before):
                now.copy_(before)
        for array, before in self._arrays:
            if not np.array_equal(array, before, equal_nan=array.dtype.kind == "f"):
                array[...] = before
        for generator, state in self._generators:
            generator.set_state(state)


def _bytes_of(tensor: Tensor) -> Tensor | None:
    """All bytes of the memory that a tensor looks at, as a tensor on the same memory."""
    if tensor.layout is not torch.strided or tensor.is_meta:
        return None
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _looks_at_the_same(tensor: Tensor, data: Tensor) -> bool:
    if tensor.layout is not torch.strided:
        return tensor.layout is data.layout
    alike = tensor.dtype == data.dtype and tensor.shape == data.shape and tensor.device == data.device
    return alike and tensor.data_ptr() == data.data_ptr() and tensor.stride() == data.stride()


def has_own_state(value: object) -> bool:
    """Whether it is a module, or an object of the user's own class, whose attributes a forward may change."""
    if isinstance(value, nn.Module):
        return True
    return (
        not isinstance(value, type)
        and type(getattr(value, "__dict__", None)) is dict
        and type(value).__module__.partition(".")[0] not in FOREIGN
    )


def _of_classes(value: object) -> list[object]:
    """Lists, dicts and the like that all objects of a user's class share, such as a cache."""
    own = [kind for kind in type(value).__mro__ if kind.__module__.partition(".")[0] not in FOREIGN]
    shared = [(name, held) for kind in own for name, held in vars(kind).items()]
    return [held for name, held in shared if isinstance(held, CONTAINERS) and not name.startswith("__")]


@contextlib.contextmanager
def left_as_it_was(network: nn.Module) -> Generator[Snapshot]:
    """Put the network and the global random states, gradient mode and default type back at the end, come what may."""
    snapshot = Snapshot(network)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    dtype, recording = torch.get_default_dtype(), torch.is_grad_enabled()
    anomaly, anomaly_nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield snapshot
    finally:
        snapshot.restore()
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if devices:
            torch.cuda.set_rng_state_all(devices)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(recording)
        torch.autograd.set_detect_anomaly(anomaly, anomaly_nan)
