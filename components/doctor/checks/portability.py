"""Checks that the network runs on another device and in another precision."""

from collections.abc import Iterator

import torch

from torchmill.components.doctor.probe import Probe, plain_tensors, shape_of
from torchmill.components.doctor.trace import Raised, Stray
from torchmill.components.doctor.verdict import Verdict


def device(probe: Probe) -> Iterator[Verdict]:
    """Check that forward makes no tensor on the CPU and combines it with the network's own.

    Follows the origin of tensors through the operations of a forward, so it needs no other device.
    """
    attributes = {name for name, _ in plain_tensors(probe.network)}  # the check plain_tensor reports these
    for stray in (stray for trace in (probe.eval_trace, probe.train_trace) for stray in trace.strays):
        if stray.origin not in attributes:
            yield _stray_verdict(stray)
            return


def _stray_verdict(stray: Stray) -> Verdict:
    moves = stray.origin.startswith("Tensor.")
    consequence = f"{stray.operation} combines it with the network's tensors, so on a GPU 1 of 2 operands stays behind"
    if stray.operation == "NumPy":
        consequence = "on a GPU it raises for this 1 tensor"
    return Verdict(
        "device",
        "fail",
        stray.layer,
        f"{stray.origin} {'moves a tensor to' if moves else 'makes a tensor on'} the CPU; {consequence}",
        "Use neither .cpu() and .to('cpu') nor NumPy in forward: torch has the same functions for any device."
        if moves
        else f"Write {stray.origin}(..., device=x.device), or register the tensor as a buffer (register_buffer).",
    )


def float64(probe: Probe) -> Iterator[Verdict]:
    """Check that forward runs in float64, so it fixes no dtype."""
    if any(parameter.is_complex() for parameter in probe.parameters):
        return  # double() does not convert complex numbers
    probe.snapshot.restore()
    try:
        probe.network.double()
        inputs = probe.inputs if probe.is_tokens else probe.inputs.double()
        trace = probe.run(inputs, restore=False)
    except Raised as raised:
        yield Verdict(
            "dtype",
            "fail",
            raised.layer,
            f"runs in float32, raises in float64: {raised.summary}",
            "Take the dtype from the input: x.new_zeros(...), dtype=x.dtype or .to(x.dtype). Keep constants as buffers "
            "with register_buffer.",
        )
        return
    finally:
        probe.snapshot.restore()
    if trace.logits.dtype != torch.float64:
        yield Verdict(
            "dtype",
            "warn",
            "",
            f"in float64 its output is {trace.logits.dtype} of shape {shape_of(trace.output)}",
            "Remove the conversion in forward, for example .float().",
        )
