"""The doctor as it is used, between two looks at all that it must leave as it was."""

import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from torchmill.components.doctor import examine as doctor
from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.verdict import Report


def fingerprint(network: nn.Module) -> dict[str, object]:
    """Return every attribute of every layer, with the bytes and the identity of tensors."""
    seen: dict[int, object] = {}

    def describe(value: object) -> object:
        if isinstance(value, Tensor):
            gradient = value.grad if value.is_leaf else None
            grad = None if gradient is None else (id(gradient), gradient.numpy(force=True).tobytes())
            return (
                id(value),
                value.dtype,
                value.data_ptr(),
                value.numpy(force=True).tobytes(),
                value.requires_grad,
                grad,
            )
        if isinstance(value, dict):
            return [(key, describe(inner)) for key, inner in value.items()]
        if isinstance(value, (list, tuple)):
            return [describe(inner) for inner in value]
        if isinstance(value, nn.Module) and id(value) not in seen:
            seen[id(value)] = None
            return describe(vars(value))
        return id(value) if not isinstance(value, (int, float, str, bool)) else value

    return {"network": describe(network)}


def random_states() -> tuple[object, ...]:
    state = np.random.get_state(legacy=False)
    return torch.get_rng_state().tolist(), random.getstate(), state["state"]["key"].tolist(), state["state"]["pos"]


def global_settings() -> tuple[object, ...]:
    hooks = torch.nn.modules.module
    return (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.is_anomaly_enabled(),
        len(hooks._global_forward_hooks),
        len(hooks._global_forward_pre_hooks),
    )


def examine(examined: CheckInput, level: Literal["quick", "full"] = "quick") -> Report:
    """Examine a network, and assert that every state is restored byte for byte.

    The network has gradients and a hook, and a layer in evaluation mode, as in the middle of a user's session.
    """
    network = examined.network
    modules = list(network.modules())
    modules[-1].eval()
    for parameter in list(network.parameters())[:2]:
        parameter.grad = torch.ones_like(parameter)
    handle = modules[0].register_forward_hook(lambda *_: None)
    data = examined.inputs.clone(), examined.targets.clone()
    before = fingerprint(network), random_states(), global_settings()
    report = doctor.examine(examined, level)
    assert (fingerprint(network), random_states(), global_settings()) == before
    assert torch.equal(examined.inputs, data[0]) and torch.equal(examined.targets, data[1])
    assert examined.inputs.grad_fn is None and not examined.inputs.requires_grad
    handle.remove()
    return report
