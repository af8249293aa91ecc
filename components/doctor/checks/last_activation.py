"""Check of the last operation: it must leave the loss logits, or outputs that can reach the targets."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchmill.components.doctor.checks.activations import kind_of
from torchmill.components.doctor.graph import through_views
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.recorder import DROPOUTS
from torchmill.components.doctor.verdict import Verdict

# Fewest logits that, if all lie between 0 and 1, suggest a sigmoid.
ENOUGH = 64
# Ranges of activations.
RANGES = {
    "ReLU": (0, math.inf),
    "sigmoid": (0, 1),
    "softmax": (0, 1),
    "tanh": (-1, 1),
    "hardtanh": (-1, 1),
    "softplus": (0, math.inf),
    "log_softmax": (-math.inf, 0),
    "hardsigmoid": (0, 1),
}
RETURN_LOGITS = "Return the logits: the loss applies softmax, and a deployment can apply it after the network."


def last_activation(probe: Probe) -> Iterator[Verdict]:
    """Check that the network ends with logits for softmax and sigmoid, or covers the targets of a regression."""
    trace = probe.eval_trace
    logits = trace.logits.detach()
    if (layer := _dropout_on_logits(probe)) is not None:
        yield _fail(
            layer,
            f"dropout zeroes {int((probe.train_trace.logits == 0).sum())} of {logits.numel()} outputs in training mode",
            "Remove the dropout after the last layer.",
        )
    node = through_views(trace.logits.grad_fn)
    kind = kind_of(node) if node is not None else ""
    if kind == "clamp" and _is_wide(node):
        kind = ""  # a guard against absurd values
    layer = trace.layer_of(node) if kind else ""
    match probe.loss_kind:
        case "softmax":
            yield _before_softmax(probe.check_input.loss_name, logits, kind, layer)
        case "sigmoid":
            yield _before_sigmoid(logits, kind, layer)
        case "identity":
            yield _before_regression(probe.check_input.targets, logits, kind, layer)


def _is_wide(clamp: Any) -> bool:
    """Return True if the bounds of a clamp are wide enough for any logits."""
    low, high = getattr(clamp, "_saved_min", None), getattr(clamp, "_saved_max", None)
    return (low is None or low <= -10) and (high is None or high >= 10)


def _dropout_on_logits(probe: Probe) -> str | None:
    output = probe.train_trace.logits
    for operation in probe.train_trace.operations:
        if operation.name in DROPOUTS and operation.output is output and (output == 0).any():
            return operation.layer
    return None


def _before_softmax(loss: str, logits: Tensor, kind: str, layer: str) -> Verdict:
    sums, classes = logits.sum(1), logits.shape[1]
    low, high = logits.min().item(), logits.max().item()
    if classes > 1 and low >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        evidence = (
            f"each row of outputs sums to {sums.mean():.3f} and no output is below 0: "
            f"softmax comes before {loss}, which applies it again"
        )
        return _fail(layer, evidence, RETURN_LOGITS)
    if classes > 1 and high <= 0 and torch.allclose(logits.logsumexp(1), torch.zeros_like(sums), atol=1e-3):
        evidence = (
            f"the exponentials of each row sum to {logits.exp().sum(1).mean():.3f}: "
            f"log_softmax comes before {loss}, which applies it again without effect"
        )
        return _warn(layer, evidence, RETURN_LOGITS)
    if kind in ("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softmax"):
        return _fail(layer, _bounded(loss, kind, classes, low, high), RETURN_LOGITS)
    if kind == "ReLU" or (kind == "clamp" and not low < 0):
        evidence = (
            f"{kind} is the last operation: {int((logits == 0).sum())} of {logits.numel()} logits are exactly 0 "
            "and get no gradient"
        )
        return _fail(layer, evidence, RETURN_LOGITS)
    if kind == "clamp":
        evidence = (
            f"clamp is the last operation: outputs stay within its bounds (here {low:.3g} to {high:.3g}), and logits "
            "beyond them get no gradient"
        )
        return _fail(layer, evidence, RETURN_LOGITS)
    if kind in ("leaky ReLU", "ELU", "GELU", "SiLU", "softplus"):
        evidence = (
            f"{kind} is the last operation: it shrinks negative logits, so the network cannot rule out a class "
            f"(outputs here: {low:.3g} to {high:.3g})"
        )
        return _warn(layer, evidence, RETURN_LOGITS)
    return _pass(f"logits from {low:.3g} to {high:.3g}")


def _bounded(loss: str, kind: str, classes: int, low: float, high: float) -> str:
    """Describe the lowest loss that bounded outputs can reach."""
    width = 1.0 if "sigmoid" in kind or kind == "softmax" else 2.0
    lowest = math.log(1 + (classes - 1) * math.exp(-width))
    return (
        f"{kind} keeps the outputs between {1 - width:g} and 1 (here {low:.3g} to {high:.3g}): "
        f"{loss} cannot fall below {lowest:.3g}"
    )


def _before_sigmoid(logits: Tensor, kind: str, layer: str) -> Verdict:
    low, high = logits.min().item(), logits.max().item()
    remedy = "Return the logits: the loss applies the sigmoid."
    looks_like_sigmoid = not kind and logits.numel() >= ENOUGH and 0 <= low < high <= 1
    if kind in ("sigmoid", "softmax", "hardsigmoid") or looks_like_sigmoid:
        evidence = (
            f"all {logits.numel()} outputs lie between {low:.3g} and {high:.3g}: {kind or 'a sigmoid'} comes before "
            "the loss, which applies a sigmoid again, so no probability is below 0.5"
        )
        return _fail(layer, evidence, remedy)
    if kind in ("ReLU", "clamp", "tanh", "hardtanh", "log_softmax"):
        evidence = (
            f"{kind} is the last operation: outputs from {low:.3g} to {high:.3g} cannot reach probabilities near "
            "both 0 and 1"
        )
        return _fail(layer, evidence, remedy)
    return _pass(f"logits from {low:.3g} to {high:.3g}")


def _before_regression(targets: Tensor, outputs: Tensor, kind: str, layer: str) -> Verdict:
    low, high = RANGES.get(kind, (-math.inf, math.inf))
    outside = ((targets < low) | (targets > high)).float().mean().item()
    if outside > 0.01:
        evidence = (
            f"{kind} keeps the outputs between {low:g} and {high:g}; {outside:.0%} of the targets, from "
            f"{targets.min():.3g} to {targets.max():.3g}, lie outside"
        )
        return _fail(layer, evidence, "End the network with a linear layer.")
    return _pass(f"outputs from {outputs.min():.3g} to {outputs.max():.3g}")


def _fail(layer: str, evidence: str, remedy: str) -> Verdict:
    return Verdict("last_activation", "fail", layer, evidence, remedy)


def _warn(layer: str, evidence: str, remedy: str) -> Verdict:
    return Verdict("last_activation", "warn", layer, evidence, remedy)


def _pass(evidence: str) -> Verdict:
    return Verdict("last_activation", "pass", "", evidence, "")
