"""Checks that a forward leaves its batch, the weights, the modes and the random seeds alone."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Call, Raised, tensors
from torchmill.components.doctor.verdict import Verdict

WEIGHTS_REMEDY = "Leave weights to the optimizer, and constrain them with torch.nn.utils.parametrize."


def side_effects(probe: Probe) -> Iterator[Verdict]:
    """Check that a forward changes neither its batch, nor weights, modes or torch's settings."""
    for training in (False, True):
        verdicts = list(_changes(probe, training))
        yield from verdicts
        if verdicts:
            return
    yield from _bounded_weights(probe)


def _changes(probe: Probe, training: bool) -> Iterator[Verdict]:
    network, mode = probe.network, "training" if training else "evaluation"
    probe.snapshot.restore()
    probe.set_mode(training)
    modes = {name: module.training for name, module in network.named_modules()}
    requires_grad = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    values = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    dtype = torch.get_default_dtype()
    layer, changed, grad_mode_changed = _run_and_compare_batch(probe, training)
    parameters = dict(network.named_parameters())
    if changed:
        yield Verdict(
            "side_effects",
            "fail",
            layer,
            f"forward in {mode} mode changes {changed:,} of {probe.inputs.numel():,} values of its batch in place",
            "Use no in-place operation on the input: inplace=False, and x = x + 1 instead of x += 1.",
        )
    if switched := [name for name, module in network.named_modules() if modes.get(name) != module.training]:
        yield Verdict(
            "side_effects",
            "fail",
            switched[0],
            f"forward in {mode} mode switches the mode of {len(switched)} of {len(modes)} layers",
            "Call no train() and no eval() in forward.",
        )
    if thawed := [name for name, p in parameters.items() if requires_grad.get(name) != p.requires_grad]:
        yield Verdict(
            "side_effects",
            "fail",
            thawed[0].rpartition(".")[0],
            f"forward changes requires_grad of {len(thawed)} parameters, {thawed[0]} first",
            "Set requires_grad once, in the constructor.",
        )
    if written := [name for name in parameters if name in values and not are_equal(values[name], parameters[name])]:
        yield Verdict(
            "side_effects",
            "warn" if training else "fail",
            written[0].rpartition(".")[0],
            f"forward in {mode} mode changes {len(written)} of {len(values)} parameters, {written[0]} first",
            WEIGHTS_REMEDY,
        )
    if grad_mode_changed or torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)
        yield Verdict(
            "side_effects",
            "fail",
            "",
            f"1 forward in {mode} mode changes torch's global {'gradient mode' if grad_mode_changed else 'dtype'}",
            "Use 'with torch.no_grad():', which restores the mode, instead of set_grad_enabled().",
        )


def _run_and_compare_batch(probe: Probe, training: bool) -> tuple[str, int, bool]:
    """Run a forward; return the first layer that changes the batch, the changed values, and ``grad_mode_changed``."""
    batches: list[Tensor] = []
    layers: list[str] = []

    def compare(call: Call, entering: bool) -> None:
        if entering and call.parent is None and tensors(call.inputs):
            batches.append(tensors(call.inputs)[0])
        if batches and not layers and not torch.equal(batches[0], probe.inputs):
            layers.append(call.parent.name if entering and call.parent else call.name)

    trace = probe.run(training=training, gradient=True, restore=False, observer=compare)
    changed = int((batches[0] != probe.inputs).sum()) if batches else 0
    return (layers[0] if layers else ""), changed, trace.grad_mode_changed


def are_equal(before: Tensor, after: Tensor) -> bool:
    """Return True if two tensors have the same shape and values; nan equals nan."""
    return before.shape == after.shape and torch.equal(before.nan_to_num(), after.detach().nan_to_num())


def _bounded_weights(probe: Probe) -> Iterator[Verdict]:
    """Check with scaled and perturbed weights, since a forward that clamps or masks weights may have run before."""
    probe.snapshot.restore()
    parameters = dict(probe.network.named_parameters())
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.is_floating_point() and parameter.numel() > 1:
                noise = torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype)
                parameter.data.mul_(10).add_(noise * parameter.data.abs().mean() / 10)
    perturbed = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        probe.run(restore=False)
    except Raised:
        return  # weights that we made up prove nothing
    if written := [name for name, parameter in parameters.items() if not are_equal(perturbed[name], parameter)]:
        yield Verdict(
            "side_effects",
            "warn",
            written[0].rpartition(".")[0],
            f"forward changes {len(written)} of {len(perturbed)} parameters after an update, {written[0]} first",
            WEIGHTS_REMEDY,
        )


def seeds(probe: Probe) -> Iterator[Verdict]:
    """Check that forward sets no random seed."""
    states = []
    for seed in (1, 2):
        probe.run(training=True, seed=seed)
        numpy = np.random.get_state(legacy=False)["state"]
        states.append((torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy["key"].tobytes()))
    libraries = ("torch", "Python", "NumPy")
    seeded = [name for name, first, second in zip(libraries, *states, strict=True) if first == second]
    if seeded:
        yield Verdict(
            "seeds",
            "fail",
            "",
            f"after forwards from 2 different seeds, {seeded[0]}'s random numbers are the same: each step would use "
            "the same dropout and the same order",
            "Set no seed in forward.",
        )
