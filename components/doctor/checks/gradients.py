"""Checks of the backward: it runs, reaches every parameter, and gives gradients of a sound size."""

import re
import statistics
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from torchmill.components.doctor.checks.forward import nudge_zeros
from torchmill.components.doctor.graph import all_nodes
from torchmill.components.doctor.probe import Probe, plain_tensors
from torchmill.components.doctor.recorder import CUTS
from torchmill.components.doctor.trace import Call, Raised, Trace, is_users, tensors
from torchmill.components.doctor.verdict import Verdict

# Sizes of a layer's gradient relative to its weights. Layer scales of 1e-6 (ConvNeXt, CaiT) are legitimate.
VANISHED, EXPLODED = 1e-6, 1e5


def backward(probe: Probe) -> Iterator[Verdict]:
    """Check that the loss has a backward that does not raise."""
    trace = probe.run(training=True, gradient=True)
    loss = probe.loss(trace.output)
    if loss.dim() or not loss.requires_grad:
        return  # the check "reached" reports it
    try:
        probe.gradients(loss, list(probe.trainable.values()))
    except Raised as raised:
        layer, place = _failing_place(probe)
        in_place = "modified by an inplace operation" in raised.summary
        remedy = (
            "Make the operation out of place: inplace=False, x = x + 1 instead of x += 1, torch.relu(x) instead of "
            "x.relu_()."
            if in_place
            else "Return one gradient per argument of forward, in that argument's shape, or None."
        )
        yield Verdict(
            "backward",
            "fail",
            layer,
            f"backward of {len(probe.trainable)} parameter tensors raises {raised.summary}{place}",
            remedy,
        )
    else:
        yield Verdict("backward", "pass", "", "1 backward succeeded", "")


def _failing_place(probe: Probe) -> tuple[str, str]:
    """Return the layer whose backward raises, and the line of forward that it belongs to."""
    trace = probe.run(training=True, gradient=True)
    loss = probe.loss(trace.output)
    assert loss.grad_fn is not None
    visited = []
    handles = [
        node.register_prehook(lambda *_, node=node: visited.append(node))
        for node in all_nodes(loss.grad_fn)
        if not hasattr(node, "variable")  # all graphs share the nodes of parameters
    ]
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("always")
        anomalous = probe.loss(probe.run(training=True, gradient=True).output)
        for network_loss in (loss, anomalous):
            try:
                network_loss.backward()
            except Exception:  # expected; this run only finds the place
                continue
    for handle in handles:
        handle.remove()
    lines = re.findall(r'File "([^"]+)", line (\d+)', " ".join(str(warning.message) for warning in caught))
    users = [(file, line) for file, line in lines if is_users(file)]
    place = f"; in forward: {Path(users[-1][0]).name} line {users[-1][1]}" if users else ""
    return (trace.layer_of(visited[-1]) if visited else ""), place


def unknown_leaves(probe: Probe) -> Iterator[Verdict]:
    """Check that the output depends on no layer or trainable tensor that is not the network's."""
    layer_call = next(
        (
            call
            for call in probe.train_trace.calls
            if not call.registered and id(call.module) not in probe.names and list(call.module.parameters())
        ),
        None,
    )
    if layer_call is not None:
        persists = id(layer_call.module) in probe.run(training=True).called()
        origin = (
            "a closure or a global holds it" if persists else "each forward makes it again, with new random weights"
        )
        count = sum(parameter.numel() for parameter in layer_call.module.parameters())
        yield Verdict(
            "made_in_forward",
            "fail",
            layer_call.parent.name if layer_call.parent else "",
            f"{type(layer_call.module).__name__} with {count:,} parameters is called but is no layer of the network: "
            f"{origin}",
            "Make it in the constructor and assign it to an attribute: self.layer = ...",
        )
        return
    expected = _known_tensors(probe)
    leaves = _leaves(probe.train_trace.logits)
    unknown = [leaf for leaf in leaves if id(leaf) not in expected and leaf is not probe.train_trace.leaf]
    if unknown:
        yield Verdict(
            "made_in_forward",
            "fail",
            "",
            f"the output depends on {len(unknown)} {'tensor' if len(unknown) == 1 else 'tensors'} with a gradient but "
            f"not among the parameters, the first of shape {tuple(unknown[0].shape)}",
            "Make each of them in the constructor: self.weight = nn.Parameter(...).",
        )


def _known_tensors(probe: Probe) -> set[int]:
    """Return the ids of the parameters, and of the tensors that other checks report."""
    ids = {id(parameter) for parameter in probe.parameters}
    ids |= {id(value) for _, value in (*probe.unregistered, *plain_tensors(probe.network))}
    for _, value in probe.unregistered:
        ids |= {id(p) for p in value.parameters()} if isinstance(value, nn.Module) else set()
    return ids


def _leaves(output: Tensor) -> list[Tensor]:
    if output.grad_fn is None:
        return []
    return [node.variable for node in all_nodes(output.grad_fn) if hasattr(node, "variable")]


def reached(probe: Probe) -> Iterator[Verdict]:
    """Check that the gradient of the loss reaches every parameter that requires one."""
    if not probe.trainable:
        return
    loss = probe.loss(probe.run(training=True, gradient=True).output)
    if loss.dim():
        evidence = f"the loss has shape {tuple(loss.shape)}, expected one number"
        yield Verdict("reached", "fail", "", evidence, "Return its mean.")
        return
    missing, zero = _unreached(probe)
    total = len(probe.trainable)
    if len(missing) == total:
        layer, cause = _cut(probe, set(missing))
        yield Verdict(
            "reached",
            "fail",
            layer,
            f"0 of {total} parameter tensors get a gradient{cause}",
            "Use only torch's differentiable operations between the weights and the output.",
        )
        return
    called = probe.train_trace.called() | probe.eval_trace.called()
    for layer, names in list(_by_layer(probe, missing).items())[:5]:
        yield _missing_gradient(probe, layer, names, called)
    for layer, names in list(_by_layer(probe, zero).items())[:5]:
        yield Verdict(
            "reached",
            "fail",
            layer,
            f"the gradient of {len(names)} of {total} parameter tensors is exactly "
            f"0 for {len(probe.inputs)} samples ({', '.join(names[:3])})",
            "Look after this layer for a factor of 0, a dead or saturated activation, or rounding.",
        )
    if not missing and not zero:
        yield Verdict("reached", "pass", "", f"all {total} parameter tensors get a gradient", "")


def _missing_gradient(probe: Probe, layer: str, names: Sequence[str], called: set[int]) -> Verdict:
    """Return the verdict on a layer without gradients: unused, its output dropped, or the graph cut."""
    modules = probe.network.get_submodule(layer).modules()
    evidence = f"{len(names)} of {len(probe.trainable)} parameter tensors get no gradient here ({', '.join(names[:3])})"
    if not layer or not any(id(inner) in called for inner in modules):
        evidence, remedy = f"{evidence}; forward does not use them", "Use the layer in forward, or delete it."
        return Verdict("reached", "fail", layer, evidence, remedy)
    cut_layer, cause = _cut(probe, set(names))
    if not cause:
        evidence = f"{evidence}; the layer is called, but its output does not reach the network's"
        return Verdict("reached", "fail", layer, evidence, "Use the output of the layer: x = layer(x).")
    if cut_layer and cut_layer != layer:
        cause = f"{cause}; the graph is cut in {cut_layer}"
    return Verdict(
        "reached",
        "fail",
        layer,
        f"{evidence}{cause}",
        "Use no detach(), .data, no_grad() or NumPy between weights and output. To freeze parameters, call "
        "requires_grad_(False).",
    )


def _unreached(probe: Probe) -> tuple[list[str], list[str]]:
    """Return the names of parameters without a gradient, and of those whose gradient is always zero.

    Several runs must agree. A stochastic depth may skip a layer, and a zero at the end of a residual branch hides the
    layers before it. Auxiliary heads exist in training mode only.
    """
    parameters = probe.trainable
    best: dict[str, int] = dict.fromkeys(parameters, 0)  # 0 no gradient, 1 zero gradient, 2 reached
    for training, seed, nudged in ((True, 0, False), (True, 1, True), (False, 2, True), (True, 3, True)):
        probe.snapshot.restore()
        if nudged:
            nudge_zeros(probe.network)
        trace = probe.run(training=training, seed=seed, gradient=True, restore=False)
        gradients = probe.gradients(probe.loss(trace.output), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                best[name] = max(best[name], 2 if gradient.any() else 1)
        if min(best.values()) == 2:
            break
    zero = [name for name, value in best.items() if value == 1]
    # A batch normalization or softmax after a layer cancels its bias exactly, but the layer still learns.
    inert = [n for n in zero if n.endswith("bias") and best.get(n.removesuffix("bias") + "weight") == 2]
    return [n for n, v in best.items() if v == 0], [n for n in zero if n not in inert]


def _by_layer(probe: Probe, names: list[str]) -> dict[str, list[str]]:
    """Group parameter names by the highest layer that has no other trainable parameters."""
    chosen = set(names)
    grouped: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")[:-1]
        layer = ".".join(parts)
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth])
            if all(inner in chosen for inner in probe.trainable if inner.startswith(f"{prefix}.")):
                layer = prefix
                break
        grouped.setdefault(layer, []).append(name)
    return grouped


def _cut(probe: Probe, names: set[str]) -> tuple[str, str]:
    """Return the layer in whose forward the graph is cut, and the cause; empty strings if unknown."""
    trace: Trace = probe.run(training=True, gradient=True, record=True)
    missing = {id(parameter) for name, parameter in probe.trainable.items() if name in names}
    started = False
    for call in trace.calls:
        if any(id(p) in missing for p in call.module.parameters(recurse=False)):
            if _has_no_graph(call):
                return call.name, "; its output has no graph, because of torch.no_grad() or a cut in its forward"
            started = True
    cuts = [operation for operation in trace.operations if operation.name in CUTS]
    if started and cuts:
        return cuts[0].layer, f"; {cuts[0].name} takes values out of the graph"
    return "", ""


def _has_no_graph(call: Call) -> bool:
    outputs = tensors(call.output)
    return bool(outputs) and not any(output.requires_grad for output in outputs)


def magnitudes(probe: Probe) -> Iterator[Verdict]:
    """Check that gradients are finite, and of similar size from the first layer to the last."""
    trace = probe.run(training=True, gradient=True)
    gradients = probe.gradients(probe.loss(trace.output), list(probe.trainable.values()))
    sizes: dict[str, float] = {}
    for (name, parameter), gradient in zip(probe.trainable.items(), gradients, strict=True):
        if gradient is None:
            continue
        if not torch.isfinite(gradient).all():
            bad = int((~torch.isfinite(gradient)).sum())
            yield Verdict(
                "gradient_size",
                "fail",
                name.rpartition(".")[0],
                f"{bad} of {gradient.numel():,} gradients of {name} are nan or infinite, though the loss is finite",
                "Look after this layer for a root or a division at 0, and write sqrt(x + 1e-8) or x / (y + 1e-8). "
                "torch.where does not help: it passes the gradient of both branches.",
            )
            return
        # Biases and scales per channel have gradients of another size.
        if parameter.dim() > 1 and parameter[0].numel() > 1 and (norm := parameter.detach().norm().item()) > 0:
            sizes[name] = gradient.norm().item() / norm
    yield from _compare_sizes(trace, sizes)


def _compare_sizes(trace: Trace, sizes: dict[str, float]) -> Iterator[Verdict]:
    called = [call.name for call in trace.calls if isinstance(call.module, (nn.Linear, _ConvNd))]
    ordered = [sizes[f"{name}.weight"] for name in dict.fromkeys(called) if sizes.get(f"{name}.weight")]
    later = statistics.median(ordered[len(ordered) // 2 :]) if ordered else 0.0
    name, largest = max(sizes.items(), key=lambda item: item[1], default=("", 0.0))
    if largest > EXPLODED:
        yield Verdict(
            "gradient_size",
            "warn",
            name.rpartition(".")[0],
            f"the gradient of {name} is {largest:.2g} times its weights",
            "Use smaller first weights, normalization, or gradient clipping by norm.",
        )
    elif len(ordered) > 2 and ordered[0] < VANISHED * later:
        yield Verdict(
            "gradient_size",
            "warn",
            next(name for name in called if sizes.get(f"{name}.weight")),
            f"relative to the weights, the first layer's gradient is {ordered[0]:.2g}, that of the later half of the "
            f"layers {later:.2g}",
            "Use ReLU instead of sigmoid and tanh, normalization between layers, or residual connections.",
        )
    elif ordered:
        evidence = f"gradients are {min(sizes.values()):.1g} to {largest:.1g} times the weights"
        yield Verdict("gradient_size", "pass", "", evidence, "")
