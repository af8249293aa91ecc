"""The doctor's checks in their order, and the examination that runs them."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from torchmill.components.doctor.check_input import CheckInput
from torchmill.components.doctor.checks import (
    activations,
    batch_independence,
    custom_autograd,
    determinism,
    exportable,
    forward,
    gradients,
    hooks,
    last_activation,
    modes,
    overfit,
    parameters,
    portability,
    side_effects,
    structure,
    tokens,
    units,
)
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.snapshot import preserved_state
from torchmill.components.doctor.trace import Raised
from torchmill.components.doctor.verdict import Report, Verdict

LEAST_SECONDS, SHARE_OF_TRAINING = 10.0, 0.2
"""Time for an examination: a share of the training's expected time, and at least 10 s."""

Clock = Callable[[], float]
"""Function that returns seconds, as ``time.monotonic``."""


class Check(NamedTuple):
    """One check, and the checks it depends on."""

    name: str
    run: Callable[[Probe], Iterator[Verdict]]
    evidence: str
    """Evidence of a pass if ``run`` yields no verdict; empty if it always yields one."""
    needs: tuple[str, ...] = ("forward",)
    """Checks that must not fail: without them this one is meaningless."""
    full: bool = False
    """True if the check runs at the full level only."""


# In order of worth: if time runs out, the last ones are left out. They take longest, too.
CHECKS = (
    Check("registered", structure.registered, "0 layers and parameters outside the network's own", ()),
    Check("backward_method", structure.backward_methods, "0 modules with a backward method", ()),
    Check("frozen", parameters.frozen, "", ()),
    Check("shared", structure.shared, "0 parameters under two names", ()),
    Check("settings", parameters.settings, "dropout and normalization have usual settings", ()),
    Check("optimizer", parameters.optimized, "", ("frozen",)),
    Check("forward", forward.outputs, "one output per target, in training and in evaluation mode", ()),
    Check("side_effects", side_effects.side_effects, "forward changes 0 values of its batch, no weight and no mode"),
    Check("seeds", side_effects.seeds, "forward sets 0 seeds"),
    Check("finite", forward.finite, "0 outputs are nan or infinite"),
    Check("plain_tensor", structure.plain, "0 tensors that are neither parameter nor buffer"),
    Check("shared_norm", structure.shared_norms, "0 batch normalizations are used in two places"),
    Check("made_in_forward", gradients.unknown_leaves, "0 layers are made in forward"),
    Check(
        "deterministic",
        determinism.deterministic,
        "2 forwards in evaluation mode agree",
        ("forward", "made_in_forward"),
    ),
    Check("modes", modes.modes, "training and evaluation differ where they should"),
    Check("attention_mask", tokens.masks, "0 attention masks are inverted"),
    Check("mixing", batch_independence.mixing, "", ("deterministic", "finite")),
    Check(
        "batch_size",
        batch_independence.sizes,
        "batches of 1 sample and of all but 1 work",
        ("deterministic", "mixing", "attention_mask"),
    ),
    Check("device", portability.device, "0 tensors are made on the CPU or moved to it"),
    Check("padding", tokens.padding, "", ("deterministic", "finite", "mixing", "attention_mask")),
    Check("last_activation", last_activation.last_activation, "", ("forward", "finite")),
    Check("activations", activations.successions, "1 non-linearity between layers"),
    Check("dead_activation", activations.dead, "0 activations are dead"),
    Check("loss_at_start", forward.loss_at_start, "", ("forward", "finite")),
    Check("backward", gradients.backward, "", ("forward", "frozen", "finite", "made_in_forward")),
    Check("reached", gradients.reached, "", ("forward", "frozen", "backward", "dead_activation")),
    Check(
        "units",
        units.dead_units,
        "0 layers have many dead units",
        ("forward", "frozen", "backward", "reached", "finite"),
    ),
    Check("hooks", hooks.reversing_hooks, "0 hooks reverse a gradient", ("forward", "frozen", "backward", "reached")),
    Check("gradient_size", gradients.magnitudes, "", ("forward", "frozen", "backward", "reached")),
    Check(
        "constant_weights",
        parameters.constant_weights,
        "0 layers with equal weights",
        ("forward", "backward"),
    ),
    Check("constant_output", forward.constant_output, "", ("forward", "finite", "dead_activation")),
    Check("wasteful", parameters.wasteful, "0 layers waste parameters"),
    Check(
        "custom_function",
        custom_autograd.custom_functions,
        "0 custom autograd functions",
        ("forward", "backward"),
    ),
    Check("dtype", portability.float64, "runs in float64", ("forward", "registered", "plain_tensor"), full=True),
    Check("overfit", overfit.overfit, "", ("batch_size", "finite", "backward", "reached"), full=True),
    Check("export", exportable.exportable, "", ("forward",), full=True),
)


def examine(
    check_input: CheckInput,
    level: Literal["quick", "full"] = "quick",
    training_samples: float = math.inf,
    clock: Clock = time.monotonic,
) -> Report:
    """Run all checks on a network, each from the same state, and restore that state afterwards.

    Restores the network, the data, the global random states and the modes.

    Args:
        check_input: the network with its batch and loss.
        level: ``quick`` runs a few forwards and backwards; ``full`` also trains the network on a few samples,
            exports it and runs it in float64.
        training_samples: samples that the training passes over, in all epochs. With the seconds of one pass over the
            batch, they give the training's expected time. No check begins after a fifth of it, or 10 s if that is more.
        clock: seconds, to measure with.

    Example:
        >>> for line in examine(check_input, "full").lines():
        ...     print(line)
    """
    start = clock()
    expected: float | None = None  # seconds of the training, measured if the examination takes long
    verdicts: list[Verdict] = []
    skipped: list[str] = []
    out_of_time: list[str] = []
    with preserved_state(check_input.network) as snapshot, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of the user's code; the checks report the relevant ones
        probe = Probe(check_input, snapshot)
        unavailable: set[str] = set()  # names of the failed and the skipped checks
        for check in CHECKS:
            if check.full and level != "full":
                continue
            elapsed = clock() - start
            if elapsed > LEAST_SECONDS and expected is None:
                expected = training_samples * _sample_seconds(probe, clock)
            if elapsed > max(LEAST_SECONDS, SHARE_OF_TRAINING * (expected or 0)):
                out_of_time.append(check.name)
                continue
            if unavailable & set(check.needs):
                skipped.append(check.name)
                unavailable.add(check.name)
                continue
            results = _run(check, probe)
            verdicts += results
            if any(verdict.verdict == "fail" for verdict in results):
                unavailable.add(check.name)
    return Report(verdicts, clock() - start, tuple(skipped), tuple(out_of_time))


def _sample_seconds(probe: Probe, clock: Clock) -> float:
    """Return the seconds that a training takes for each sample, by one forward and backward; inf if these fail."""
    start = clock()
    try:
        loss = probe.loss(probe.run(training=True, gradient=True).output)
        probe.gradients(loss, list(probe.trainable.values()))
    except Raised:
        return math.inf
    return (clock() - start) / len(probe.inputs)


def _run(check: Check, probe: Probe) -> list[Verdict]:
    probe.snapshot.restore()
    verdicts: list[Verdict] = []
    try:
        verdicts.extend(check.run(probe))
    except Raised as raised:  # the user's code fails only under the conditions of this check
        evidence = f"1 {raised.action} raises {raised.summary}"
        verdicts.append(Verdict(check.name, "fail", raised.layer, evidence, "Fix the cause that the error names."))
    if not verdicts and check.evidence:
        verdicts.append(Verdict(check.name, "pass", "", check.evidence, ""))
    return verdicts
