"""Checks of the non-linearities between layers: neither doubled nor missing, and none dead."""

import collections
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from torchmill.components.doctor.graph import TRANSPARENT, all_nodes, is_transparent, through_views
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Call, Trace
from torchmill.components.doctor.verdict import Verdict

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
# Fewest values to judge an activation by: fewer, as in a squeeze-and-excitation, may all be off by chance.
ENOUGH = 64
# Outputs of these need no second bound, and no cut at 0.
BOUNDED = {"sigmoid", "softmax", "hardsigmoid"}
POINTLESS_AFTER_BOUNDED = {*BOUNDED, "log_softmax", "ReLU"}
# A curve halves the range of a squeezing activation behind it: after ReLU, a sigmoid gives 0.5 to 1.
CURVES, SQUEEZES = {"ReLU", "tanh"}, {"sigmoid", "tanh"}


def kind_of(node: Any) -> str:
    """Return the name of the non-linearity that an autograd node belongs to, or an empty string."""
    name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
    name = {"SafeSoftmax": "Softmax", "Relu6": "Relu"}.get(name.lstrip("_"), name)
    return NON_LINEAR.get(name, "")


def successions(probe: Probe) -> Iterator[Verdict]:
    """Check that no activation directly follows another, and that linear layers have one between them."""
    trace = probe.eval_trace
    if trace.logits.grad_fn is None:
        return
    nodes = all_nodes(trace.logits.grad_fn)
    uses = collections.Counter(source for node in nodes for source, _ in node.next_functions)
    for node in sorted(nodes, key=lambda node: node._sequence_nr()):
        kind = kind_of(node)
        if not kind or not node.next_functions:
            continue
        source = through_views(node.next_functions[0][0])
        earlier = kind_of(source) if source is not None else ""
        pointless = earlier in BOUNDED and kind in POINTLESS_AFTER_BOUNDED
        squeezed = earlier in CURVES and kind in SQUEEZES and uses[source] == 1
        if pointless or squeezed or (earlier == kind and kind != "clamp"):
            yield Verdict(
                "activations",
                "warn",
                trace.layer_of(node),
                f"{kind} directly follows {earlier}: 2 activations without a layer between them",
                "Keep one of the two.",
            )
            break
    yield from _linear_pairs(trace, nodes, uses)


def _linear_pairs(trace: Trace, nodes: list[Any], uses: collections.Counter[Any]) -> Iterator[Verdict]:
    called = collections.Counter(id(call.module) for call in trace.calls)
    # Only layers whose output is in the graph of the logits.
    linear = [c for c in trace.calls if isinstance(c.module, (nn.Linear, _ConvNd)) and c.output_node in set(nodes)]
    ends = {call.output_node: call for call in linear}
    for call in linear:
        previous = _previous_linear(call, ends, uses)
        if previous is None or previous is call or _is_factorized(previous.module, call.module):
            continue
        if called[id(previous.module)] > 1:  # another output of it is used elsewhere
            continue
        yield Verdict(
            "activations",
            "warn",
            call.name,
            f"{previous.name} {_size(previous.module)} and {call.name} {_size(call.module)} follow each other with 0 "
            "activations between them: together they are one linear layer",
            "Put a ReLU between them, or remove one.",
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


def _previous_linear(call: Call, ends: dict[Any, Call], uses: collections.Counter[Any]) -> Call | None:
    """Return the linear layer that feeds a linear layer and nothing else; a gate or a residual is another use."""
    node, most_uses = call.input_node, 1
    while node is not None:
        most_uses = max(most_uses, uses[node])
        if node in ends or not is_transparent(node):
            break
        node = node.next_functions[0][0] if node.next_functions else None
    return ends.get(node) if most_uses == 1 else None


def _is_curved(node: Any) -> bool:
    """Return True unless a node is a sum, a product with weights, a view or a normalization by constants."""
    name = type(node).__name__
    plain = ("Addmm", "Mm", "Convolution", "Add", "Sub", "Batch", "AccumulateGrad", "Mean", "Sum", "AvgPool", "Cat")
    return not any(part in name for part in (*plain, *TRANSPARENT, "Bmm"))


def _size(layer: nn.Module) -> str:
    weight = layer.weight
    return f"{tuple(weight.shape)}" if isinstance(weight, Tensor) else ""


def _is_factorized(first: nn.Module, second: nn.Module) -> bool:
    """Return True if two layers save parameters: depthwise and pointwise, rows and columns, or a bottleneck."""
    if any(isinstance(layer, _ConvNd) and layer.groups > 1 for layer in (first, second)):
        return True
    weight, next_weight = first.weight, second.weight
    assert isinstance(weight, Tensor) and isinstance(next_weight, Tensor)
    if weight.shape[2:] != next_weight.shape[2:]:
        return True
    return weight.shape[0] < min(weight.shape[1], next_weight.shape[0])


def dead(probe: Probe) -> Iterator[Verdict]:
    """Check that no activation is flat for nearly all units and samples, where no gradient passes."""
    trace = probe.train_trace if probe.has(_BatchNorm) else probe.eval_trace
    for operation in trace.operations:
        kind = operation.name.rstrip("_")
        limit = 0.999 if kind.startswith("relu") else 0.99
        if kind not in ("relu", "relu6", "sigmoid", "tanh") or operation.flat < 0.95:
            continue
        if operation.units * len(probe.inputs) < ENOUGH:
            continue
        fatal = operation.flat >= limit and operation.units >= 16
        state = "zero" if kind.startswith("relu") else "saturated"
        yield Verdict(
            "dead_activation",
            "fail" if fatal else "warn",
            operation.layer,
            f"{kind}: {operation.flat:.1%} of {operation.units} units are {state} for {len(probe.inputs)} samples",
            "Check the layer before it for biases far below zero, large weights and inputs that are not standardized.",
        )
        return
