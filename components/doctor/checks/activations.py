"""Non-linearities: one before each next layer, none before the loss, none dead."""

import collections
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import DROPOUTS, Trace
from torchmill.components.doctor.verdict import Verdict

# Nodes of the graph that change no value, only where it stands.
TRANSPARENT = (
    "View",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Permute",
    "TBackward",
    "Alias",
    "Clone",
    "Expand",
    "UnsafeView",
    "Slice",
    "Contiguous",
    "Select",
)
NON_LINEAR = {
    "Relu": "ReLU",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "LeakyRelu": "leaky ReLU",
    "Gelu": "GELU",
    "Silu": "SiLU",
    "Elu": "ELU",
    "Hardtanh": "hardtanh",
    "Softplus": "softplus",
    "LogSigmoid": "logsigmoid",
    "Clamp": "clamp",
    "ClampMin": "clamp",
    "Hardsigmoid": "hardsigmoid",
}
# Values of an activation: few may all be off by chance, such as those of a squeeze-and-excitation.
ENOUGH = 64
# What leaves nothing to be bounded again, or to be cut at 0.
BOUNDED = {"sigmoid", "softmax", "hardsigmoid"}
POINTLESS_AFTER_BOUNDED = {*BOUNDED, "log_softmax", "ReLU"}
# What halves the range of the next one, and what it does so to: ReLU leaves a sigmoid 0.5 to 1.
CURVES, SQUEEZES = {"ReLU", "tanh"}, {"sigmoid", "tanh"}


def _kind(node: Any) -> str:
    name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
    name = {"SafeSoftmax": "Softmax", "Relu6": "Relu"}.get(name.lstrip("_"), name)
    return NON_LINEAR.get(name, "")


def through_views(node: Any) -> Any:
    """The node behind views, transposes and the like."""
    while node is not None and any(name in type(node).__name__ for name in TRANSPARENT):
        node = next((before for before, _ in node.next_functions if before is not None), None)
    return node


def graph(node: Any) -> list[Any]:
    """All nodes from which a result came."""
    seen, pending = {node}, [node]
    while pending:
        for before, _ in pending.pop().next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                pending.append(before)
    return list(seen)


def last(probe: Probe) -> Iterator[Verdict]:
    """The last operation leaves the loss what it needs: logits for softmax and sigmoid, the whole range of targets."""
    trace = probe.evaluated
    logits = trace.logits.detach()
    if (dropped := _dropped_logits(probe)) is not None:
        yield Verdict(
            "last_activation",
            "fail",
            dropped,
            f"{int((probe.trained.logits == 0).sum())} of {logits.numel()} outputs are dropped in training mode",
            "No dropout behind the last layer.",
        )
    node = through_views(trace.logits.grad_fn)
    kind = _kind(node) if node is not None else ""
    if kind == "clamp" and _is_wide(node):
        kind = ""  # a guard against what is absurd
    layer = trace.layer_of(node) if kind else ""
    match probe.kind_of_loss:
        case "softmax":
            yield from _before_softmax(probe, logits, kind, layer)
        case "sigmoid":
            yield from _before_sigmoid(probe, logits, kind, layer)
        case "identity":
            yield from _before_regression(probe, logits, kind, layer)


def _is_wide(clamp: Any) -> bool:
    """Whether a clamp leaves logits all the room that they need."""
    low, high = getattr(clamp, "_saved_min", None), getattr(clamp, "_saved_max", None)
    return (low is None or low <= -10) and (high is None or high >= 10)


def _dropped_logits(probe: Probe) -> str | None:
    output = probe.trained.logits
    for operation in probe.trained.operations:
        if operation.name in DROPOUTS and operation.output is output and (output == 0).any():
            return operation.layer
    return None


def _before_softmax(probe: Probe, logits: Tensor, kind: str, layer: str) -> Iterator[Verdict]:
    loss, sums = probe.case.loss_name, logits.sum(1)
    low, high = logits.min().item(), logits.max().item()
    several = logits.shape[1] > 1
    remedy = "Return the logits; the loss applies softmax, and deployment can do so behind the network."
    if several and low >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"each row of outputs sums to {sums.mean():.3f} and none is "
            f"under 0: softmax is applied before {loss}, which applies it again",
            remedy,
        )
    elif several and high <= 0 and torch.allclose(logits.logsumexp(1), torch.zeros_like(sums), atol=1e-3):
        yield Verdict(
            "last_activation",
            "warn",
            layer,
            f"the exponentials of each row sum to "
            f"{logits.exp().sum(1).mean():.3f}: log_softmax before {loss}, which applies it again without "
            "effect",
            remedy,
        )
    elif kind in ("sigmoid", "tanh", "hardsigmoid", "hardtanh", "softmax"):
        width = 1.0 if "sigmoid" in kind or kind == "softmax" else 2.0
        best = torch.tensor(1 + (logits.shape[1] - 1) * 2.718281828**-width).log().item()
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"{kind} keeps the outputs between {1 - width:g} and 1 (here "
            f"{low:.3g} to {high:.3g}): {loss} cannot go below {best:.3g}",
            remedy,
        )
    elif kind == "ReLU" or (kind == "clamp" and not low < 0):
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"{kind} is the last operation: {int((logits == 0).sum())} of "
            f"{logits.numel()} logits are exactly 0 and get no gradient",
            remedy,
        )
    elif kind == "clamp":
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"clamp is the last operation: outputs stay within its bounds (here {low:.3g} to {high:.3g}), and those "
            "beyond get no gradient",
            remedy,
        )
    elif kind in ("leaky ReLU", "ELU", "GELU", "SiLU", "softplus"):
        yield Verdict(
            "last_activation",
            "warn",
            layer,
            f"{kind} is the last operation: it squeezes what is below 0, so that no logit says no surely (here "
            f"{low:.3g} to {high:.3g})",
            remedy,
        )
    else:
        yield Verdict("last_activation", "pass", "", f"logits from {low:.3g} to {high:.3g}", "")


def _before_sigmoid(probe: Probe, logits: Tensor, kind: str, layer: str) -> Iterator[Verdict]:
    low, high = logits.min().item(), logits.max().item()
    remedy = "Return the logits; the loss applies the sigmoid."
    inside = low >= 0 and high <= 1
    if kind in ("sigmoid", "softmax", "hardsigmoid") or (inside and not kind and logits.numel() >= 64 and low < high):
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"all {logits.numel()} outputs lie between {low:.3g} and "
            f"{high:.3g}: {kind or 'a sigmoid'} is applied before the loss, which applies one again, so that "
            "no probability is below 0.5",
            remedy,
        )
    elif kind in ("ReLU", "clamp", "tanh", "hardtanh", "log_softmax"):
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"{kind} is the last operation: outputs from {low:.3g} to {high:.3g} cannot say both yes and no surely",
            remedy,
        )
    else:
        yield Verdict("last_activation", "pass", "", f"logits from {low:.3g} to {high:.3g}", "")


def _before_regression(probe: Probe, logits: Tensor, kind: str, layer: str) -> Iterator[Verdict]:
    ranges = {
        "ReLU": (0, float("inf")),
        "sigmoid": (0, 1),
        "softmax": (0, 1),
        "tanh": (-1, 1),
        "hardtanh": (-1, 1),
        "softplus": (0, float("inf")),
        "log_softmax": (-float("inf"), 0),
        "hardsigmoid": (0, 1),
    }
    low, high = ranges.get(kind, (-float("inf"), float("inf")))
    targets = probe.case.targets
    outside = ((targets < low) | (targets > high)).float().mean().item()
    if outside > 0.01:
        yield Verdict(
            "last_activation",
            "fail",
            layer,
            f"{kind} keeps the outputs between {low:g} and {high:g}; "
            f"{outside:.0%} of the targets, from {targets.min():.3g} to {targets.max():.3g}, lie outside",
            "End with a linear layer.",
        )
    else:
        yield Verdict("last_activation", "pass", "", f"outputs from {logits.min():.3g} to {logits.max():.3g}", "")


def doubled(probe: Probe) -> Iterator[Verdict]:
    """No two activations in direct succession, and no two linear layers without one between them."""
    trace = probe.evaluated
    if trace.logits.grad_fn is None:
        return
    nodes = graph(trace.logits.grad_fn)
    uses = collections.Counter(before for node in nodes for before, _ in node.next_functions)
    for node in sorted(nodes, key=lambda node: node._sequence_nr()):
        kind = _kind(node)
        if not kind or not node.next_functions:
            continue
        before = through_views(node.next_functions[0][0])
        earlier = _kind(before) if before is not None else ""
        pointless = earlier in BOUNDED and kind in POINTLESS_AFTER_BOUNDED
        squeezed = earlier in CURVES and kind in SQUEEZES and uses[before] == 1
        if pointless or squeezed or (earlier == kind and kind != "clamp"):
            yield Verdict(
                "activations",
                "warn",
                trace.layer_of(node),
                f"{kind} directly follows {earlier}: 2 activations with no layer between them",
                "Keep one of the two.",
            )
            break
    yield from _linear_pairs(trace, nodes, uses)


def _linear_pairs(trace: Trace, nodes: list[Any], uses: collections.Counter[Any]) -> Iterator[Verdict]:
    called = collections.Counter(id(call.module) for call in trace.calls)
    # Those whose output is in the graph of the logits.
    linear = [c for c in trace.calls if isinstance(c.module, (nn.Linear, _ConvNd)) and c.output_node in set(nodes)]
    ends = {call.output_node: call for call in linear}
    for call in linear:
        node, used = call.input_node, 1
        while node is not None:
            used = max(used, uses[node])
            if node in ends or not any(name in type(node).__name__ for name in TRANSPARENT):
                break
            node = node.next_functions[0][0] if node.next_functions else None
        before = ends.get(node)
        # What goes elsewhere as well, such as a gate or a residual, is not one linear layer with the next.
        if before is None or before is call or used > 1 or _is_factorised(before.module, call.module):
            continue
        if called[id(before.module)] > 1:  # its other output goes elsewhere
            continue
        yield Verdict(
            "activations",
            "warn",
            call.name,
            f"{before.name} {_size(before.module)} and {call.name} {_size(call.module)} follow each other with 0 "
            "activations between them: together they are one linear layer",
            "Put a ReLU between them, or take one away.",
        )
        return
    if len(linear) > 1 and not any(_is_curved(node) for node in nodes):
        yield Verdict(
            "activations",
            "warn",
            "",
            f"{len(linear)} linear layers and 0 activations: the network is a linear function",
            "Put a ReLU between the layers.",
        )


def _is_curved(node: Any) -> bool:
    """Whether it may be non-linear: all but sums, products with weights, views and normalisation by constants."""
    name = type(node).__name__
    plain = ("Addmm", "Mm", "Convolution", "Add", "Sub", "Batch", "AccumulateGrad", "Mean", "Sum", "AvgPool", "Cat")
    return not any(part in name for part in (*plain, *TRANSPARENT, "Bmm"))


def _size(layer: nn.Module) -> str:
    weight = layer.weight
    return f"{tuple(weight.shape)}" if isinstance(weight, Tensor) else ""


def _is_factorised(first: nn.Module, second: nn.Module) -> bool:
    """Whether two layers in succession save parameters: depthwise and pointwise, rows and columns, a bottleneck."""
    if any(isinstance(layer, _ConvNd) and layer.groups > 1 for layer in (first, second)):
        return True
    one, other = first.weight, second.weight
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    if one.shape[2:] != other.shape[2:]:
        return True
    return one.shape[0] < min(one.shape[1], other.shape[0])


def dead(probe: Probe) -> Iterator[Verdict]:
    """No activation is flat for nearly all units and samples: no gradient passes there."""
    trace = probe.trained if probe.has(_BatchNorm) else probe.evaluated
    for operation in trace.operations:
        kind = operation.name.rstrip("_")
        limit = 0.999 if kind.startswith("relu") else 0.99
        if kind not in ("relu", "relu6", "sigmoid", "tanh") or operation.zeros < 0.95:
            continue
        if operation.units * len(probe.inputs) < ENOUGH:
            continue
        fatal = operation.zeros >= limit and operation.units >= 16
        state = "zero" if kind.startswith("relu") else "saturated"
        yield Verdict(
            "dead_activation",
            "fail" if fatal else "warn",
            operation.layer,
            f"{kind}: {operation.zeros:.1%} of {operation.units} units are {state} for {len(probe.inputs)} samples",
            "Check the layer before it: biases far below zero, weights too large, inputs that are not standardised.",
        )
        return
