"""Examine a network: all checks in order, each from the same state, and everything put back at the end."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.checks import (
    activations,
    forward,
    gradients,
    parameters,
    portability,
    structure,
    tokens,
)
from torchmill.components.doctor.checks import batch_independence as batch
from torchmill.components.doctor.checks import custom_autograd as custom
from torchmill.components.doctor.checks import determinism as repetition
from torchmill.components.doctor.checks import exportable as export
from torchmill.components.doctor.checks import overfit as learning
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.snapshot import left_as_it_was
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Report, Verdict


class Check(NamedTuple):
    """One check: the name its verdicts bear, and the checks without whose success it can say nothing."""

    name: str
    run: Callable[[Probe], Iterator[Verdict]]
    passed: str
    """What is said where it finds nothing."""
    needs: tuple[str, ...] = ("forward",)
    full: bool = False


CHECKS = (
    Check("registered", structure.registered, "0 layers and parameters outside of the network's own", ()),
    Check("backward_method", structure.backward_methods, "0 modules with a method backward", ()),
    Check("frozen", parameters.frozen, "", ()),
    Check("shared", structure.shared, "0 parameters under two names", ()),
    Check("settings", parameters.settings, "dropout and normalisation have usual settings", ()),
    Check("optimizer", parameters.optimized, "", ("frozen",)),
    Check("forward", forward.outputs, "one output per target, in training and in evaluation mode", ()),
    Check("side_effects", repetition.side_effects, "forward changes 0 numbers of its batch, no weight and no mode"),
    Check("seeds", repetition.seeds, "forward sets 0 seeds"),
    Check("finite", forward.finite, "0 outputs are nan or infinite"),
    Check("plain_tensor", structure.plain, "0 tensors beside parameters and buffers"),
    Check("shared_norm", structure.norms_at_two_places, "0 batch normalisations stand at two places"),
    Check("made_in_forward", gradients.known_leaves, "0 layers are made in forward"),
    Check("determined", repetition.determined, "2 forwards in evaluation mode agree", ("forward", "made_in_forward")),
    Check("modes", repetition.modes, "training and evaluation differ where they should"),
    Check("attention_mask", tokens.masks, "0 attention masks are the wrong way round"),
    Check("mixing", batch.mixing, "", ("determined", "finite")),
    Check("batch_size", batch.sizes, "1 sample and all but 1 go through", ("determined", "mixing", "attention_mask")),
    Check("device", portability.device, "0 tensors are made on the CPU or taken there"),
    Check("padding", tokens.padding, "", ("determined", "finite", "mixing", "attention_mask")),
    Check("last_activation", activations.last, "", ("forward", "finite")),
    Check("activations", activations.doubled, "1 non-linearity between layers"),
    Check("dead_activation", activations.dead, "0 activations are dead"),
    Check("loss_at_start", forward.loss_at_start, "", ("forward", "finite")),
    Check("backward", gradients.backward, "", ("forward", "frozen", "finite", "made_in_forward")),
    Check("reached", gradients.reached, "", ("forward", "frozen", "backward", "dead_activation")),
    Check(
        "units", gradients.units, "0 layers are dead in part", ("forward", "frozen", "backward", "reached", "finite")
    ),
    Check("hooks", gradients.hooks, "0 hooks turn a gradient round", ("forward", "frozen", "backward", "reached")),
    Check("gradient_size", gradients.magnitudes, "", ("forward", "frozen", "backward", "reached")),
    Check(
        "constant_weights",
        parameters.constant_weights,
        "0 layers with equal weights",
        ("forward", "backward"),
    ),
    Check("constant_output", forward.constant_output, "", ("forward", "finite", "dead_activation")),
    Check("wasteful", parameters.wasteful, "0 layers are wasted"),
    Check(
        "custom_function", custom.custom_functions, "0 functions with a backward of their own", ("forward", "backward")
    ),
    Check("dtype", portability.float64, "runs in float64", ("forward", "registered", "plain_tensor"), full=True),
    Check("overfit", learning.overfit, "", ("batch_size", "finite", "backward", "reached"), full=True),
    Check("export", export.exportable, "", ("forward",), full=True),
)


def examine(case: CheckInput, level: Literal["quick", "full"] = "quick") -> Report:
    """Look at a network with a batch, before hours are spent on it.

    ``quick`` takes a few forwards and backwards; ``full`` also trains it on a few samples, exports it and runs it in
    float64. Network, data, global random states and modes are left as they were.
    """
    start = time.monotonic()
    verdicts: list[Verdict] = []
    left_out: list[str] = []
    with left_as_it_was(case.network) as snapshot, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the user's code; what matters becomes a verdict
        probe = Probe(case, snapshot)
        silent: set[str] = set()  # failed, or left out since another one failed
        for check in CHECKS:
            if check.full and level != "full":
                continue
            if silent & set(check.needs):
                left_out.append(check.name)
                silent.add(check.name)
                continue
            found = _run(check, probe)
            verdicts += found
            if any(verdict.verdict == "fail" for verdict in found):
                silent.add(check.name)
    return Report(verdicts, time.monotonic() - start, left_out)


def _run(check: Check, probe: Probe) -> list[Verdict]:
    probe.snapshot.restore()
    found: list[Verdict] = []
    try:
        found.extend(check.run(probe))
    except Raised as raised:  # in a circumstance of this check alone
        found.append(
            Verdict(check.name, "fail", raised.layer, f"1 {raised.doing} raises {raised.words}", "Mend what it names.")
        )
    if not found and check.passed:
        found.append(Verdict(check.name, "pass", "", check.passed, ""))
    return found
