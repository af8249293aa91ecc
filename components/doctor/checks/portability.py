"""Whether the network runs elsewhere: on another device, in another precision."""

from collections.abc import Iterator

import torch

from torchmill.components.doctor.probe import Probe, plain_tensors, shape_of
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Verdict


def device(probe: Probe) -> Iterator[Verdict]:
    """No tensor is made on the CPU in forward and used with the network's own.

    Followed through the operations of a forward; no other device is needed.
    """
    attributes = {name for name, _ in plain_tensors(probe.network)}  # told by a check of their own
    strays = [stray for trace in (probe.evaluated, probe.trained) for stray in trace.strays]
    for layer, operation, origin in strays:
        if origin not in attributes:
            fetched = origin.startswith("Tensor.")
            met = f"{operation} takes it together with the network's own: 1 of 2 operands stays behind"
            if operation == "NumPy":
                met = "which is refused of 1 tensor of the network's"
            yield Verdict(
                "device",
                "fail",
                layer,
                f"{origin} {'takes a tensor to' if fetched else 'makes a tensor on'} the CPU, {met} when the "
                "network moves to a GPU",
                "Leave it where it is: no .cpu(), .to('cpu') and no NumPy in forward; torch has the same functions."
                if fetched
                else f"{origin}(..., device=x.device), or keep it as a buffer (register_buffer).",
            )
            return


def float64(probe: Probe) -> Iterator[Verdict]:
    """Forward runs in float64: no type is written into it."""
    if any(parameter.is_complex() for parameter in probe.parameters):
        return  # double() leaves complex numbers as they are
    probe.snapshot.restore()
    try:
        probe.network.double()
        inputs = probe.inputs if probe.is_tokens else probe.inputs.double()
        trace = probe.run(inputs, fresh=False)
    except Raised as raised:
        yield Verdict(
            "dtype",
            "fail",
            raised.layer,
            f"runs in float32, raises in float64: {raised.words}",
            "Take the type from the input: x.new_zeros(...), dtype=x.dtype, .to(x.dtype); register_buffer "
            "for constants.",
        )
        return
    finally:
        probe.snapshot.restore()
    if trace.logits.dtype != torch.float64:
        yield Verdict(
            "dtype",
            "warn",
            "",
            f"in float64 it gives {trace.logits.dtype}, shape {shape_of(trace.output)}",
            "A conversion such as .float() is written into forward.",
        )
