"""Whether backward works, and which parameters it reaches with what."""

import re
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.activations import graph
from torchmill.components.doctor.checks.forward import nudge_zeros
from torchmill.components.doctor.probe import Probe, plain_tensors
from torchmill.components.doctor.trace import CUTS, Call, Look, Raised, Trace, is_users, tensors
from torchmill.components.doctor.verdict import Verdict

# Of a layer's gradient to its weights. Layer scales of 1e-6 (ConvNeXt, CaiT) are legitimate.
VANISHED, EXPLODED = 1e-6, 1e5
# Layers with a row of weights for each unit, at least so many, of which so large a part is told. Samples that look
# alike to a deep network of ReLUs shut about half of its units by chance: those are as far from zero as the others.
UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
ENOUGH, MANY, FAR_BELOW = 16, 0.5, 5.0


def backward(probe: Probe) -> Iterator[Verdict]:
    """The loss has a backward, and it does not raise."""
    trace = probe.run(training=True, gradient=True)
    loss = probe.loss(trace.output)
    if loss.dim() or not loss.requires_grad:
        return  # told by the next check
    try:
        probe.gradients(loss, list(probe.trainable.values()))
    except Raised as raised:
        layer, place = _failing_place(probe)
        in_place = "modified by an inplace operation" in raised.words
        remedy = (
            "Make the operation out of place: inplace=False, x = x + 1 and not x += 1, torch.relu(x) not x.relu_()."
            if in_place
            else "A backward gives one gradient per argument of forward, each in its argument's shape, or None."
        )
        yield Verdict(
            "backward",
            "fail",
            layer,
            f"backward of {len(probe.trainable)} parameter tensors raises {raised.words}{place}",
            remedy,
        )
    else:
        yield Verdict("backward", "pass", "", "1 backward went through", "")


def _failing_place(probe: Probe) -> tuple[str, str]:
    """The layer whose backward raises, and the line of forward that belongs to it."""
    trace = probe.run(training=True, gradient=True)
    loss = probe.loss(trace.output)
    assert loss.grad_fn is not None
    last = []
    handles = [
        node.register_prehook(lambda *_, node=node: last.append(node))
        for node in graph(loss.grad_fn)
        if not hasattr(node, "variable")  # those of parameters are shared by all graphs
    ]
    with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("always")
        anomalous = probe.loss(probe.run(training=True, gradient=True).output)
        for network_loss in (loss, anomalous):
            try:
                network_loss.backward()
            except Exception:  # it did so before; this time for its place
                continue
    for handle in handles:
        handle.remove()
    lines = re.findall(r'File "([^"]+)", line (\d+)', " ".join(str(warning.message) for warning in told))
    own = [(file, line) for file, line in lines if is_users(file)]
    place = f"; in forward: {Path(own[-1][0]).name} line {own[-1][1]}" if own else ""
    return (trace.layer_of(last[-1]) if last else ""), place


def known_leaves(probe: Probe) -> Iterator[Verdict]:
    """All that the output depends on and wants a gradient is a parameter of the network."""
    known = {id(parameter) for parameter in probe.parameters}
    # Told by checks of their own.
    known |= {id(value) for _, value in (*probe.unregistered, *plain_tensors(probe.network))}
    for _, value in probe.unregistered:
        known |= {id(p) for p in value.parameters()} if isinstance(value, nn.Module) else set()
    strange = next(
        (
            call
            for call in probe.trained.calls
            if not call.registered and id(call.module) not in probe.names and list(call.module.parameters())
        ),
        None,
    )
    if strange is not None:
        again = probe.run(training=True)
        kept = id(strange.module) in again.called()
        count = sum(parameter.numel() for parameter in strange.module.parameters())
        yield Verdict(
            "made_in_forward",
            "fail",
            strange.parent.name if strange.parent else "",
            f"{type(strange.module).__name__} with {count:,} parameters is called, yet is no layer of the "
            f"network: {'it is hidden in a closure or a global' if kept else 'forward makes it anew each time, with new random weights'}",  # noqa: E501
            "Make it in the constructor as an attribute: self.layer = ...",
        )
        return
    leaves = _leaves(probe.trained.logits)
    foreign = [leaf for leaf in leaves if id(leaf) not in known and leaf is not probe.trained.leaf]
    if foreign:
        yield Verdict(
            "made_in_forward",
            "fail",
            "",
            f"the output depends on {len(foreign)} tensors that want a "
            f"gradient and are no parameters, the first of shape {tuple(foreign[0].shape)}",
            "Make them in the constructor: self.weight = nn.Parameter(...).",
        )


def _leaves(output: Tensor) -> list[Tensor]:
    if output.grad_fn is None:
        return []
    return [node.variable for node in graph(output.grad_fn) if hasattr(node, "variable")]


def reached(probe: Probe) -> Iterator[Verdict]:
    """The loss's gradient reaches every parameter that wants one."""
    if not probe.trainable:
        return
    loss = probe.loss(probe.run(training=True, gradient=True).output)
    if loss.dim():
        yield Verdict(
            "reached", "fail", "", f"the loss has shape {tuple(loss.shape)}, expected one number", "Take its mean."
        )
        return
    missing, zero = _unreached(probe)
    total = len(probe.trainable)
    if len(missing) == total:
        layer, why = _cut(probe, set(missing))
        yield Verdict(
            "reached",
            "fail",
            layer,
            f"0 of {total} parameter tensors get a gradient{why}",
            "Keep the way from the weights to the output in torch's differentiable operations.",
        )
        return
    called = probe.trained.called() | probe.evaluated.called()
    for layer, names in list(_by_layer(probe, missing).items())[:5]:
        module = probe.network.get_submodule(layer)
        used = any(id(inner) in called for inner in module.modules()) and layer
        where, why = _cut(probe, set(names)) if used else ("", "")
        dropped = used and not why
        yield Verdict(
            "reached",
            "fail",
            layer,
            f"{len(names)} of {total} parameter tensors get no gradient here ({', '.join(names[:3])})"
            + ("; their layer is called, but its output does not arrive at the network's" if dropped else why)
            + ("" if used else "; forward does not use them")
            + (f"; the graph is cut in {where}" if used and where and where != layer else ""),
            "Go on with what the layer returns: x = layer(x)."
            if dropped
            else "No detach(), .data, no_grad() or NumPy between weights and output; requires_grad_(False) for what is "
            "not to learn."
            if used
            else "Use it in forward, or delete it.",
        )
    for layer, names in list(_by_layer(probe, zero).items())[:5]:
        yield Verdict(
            "reached",
            "fail",
            layer,
            f"the gradient of {len(names)} of {total} parameter tensors is exactly "
            f"0 for {len(probe.inputs)} samples ({', '.join(names[:3])})",
            "Look behind it for a factor of 0, a dead or saturated activation, rounding.",
        )
    if not missing and not zero:
        yield Verdict("reached", "pass", "", f"all {total} parameter tensors get a gradient", "")


def _unreached(probe: Probe) -> tuple[list[str], list[str]]:
    """Names of parameters that no gradient reaches, and of those whose gradient is zero in every circumstance.

    A stochastic depth may leave out a layer, a zero at the end of a residual branch hides those before it, and
    auxiliary heads exist in training mode alone: only what is unreached in several runs is so.
    """
    parameters = probe.trainable
    best: dict[str, int] = dict.fromkeys(parameters, 0)  # 0 none, 1 zero, 2 reached
    for training, seed, nudged in ((True, 0, False), (True, 1, True), (False, 2, True), (True, 3, True)):
        probe.snapshot.restore()
        if nudged:
            nudge_zeros(probe.network)
        trace = probe.run(training=training, seed=seed, gradient=True, fresh=False)
        gradients = probe.gradients(probe.loss(trace.output), list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                best[name] = max(best[name], 2 if gradient.any() else 1)
        if min(best.values()) == 2:
            break
    zero = [name for name, value in best.items() if value == 1]
    # Batch normalisation or a softmax behind it takes a bias away exactly: its layer learns all the same.
    inert = [n for n in zero if n.endswith("bias") and best.get(n.removesuffix("bias") + "weight") == 2]
    return [n for n, v in best.items() if v == 0], [n for n in zero if n not in inert]


def _by_layer(probe: Probe, names: list[str]) -> dict[str, list[str]]:
    """Group parameters by the highest layer all of whose parameters are among them."""
    chosen = set(names)
    grouped: dict[str, list[str]] = {}
    for name in names:
        parts = name.split(".")[:-1]
        layer = ".".join(parts)
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth])
            if all(other in chosen for other in probe.trainable if other.startswith(f"{prefix}.")):
                layer = prefix
                break
        grouped.setdefault(layer, []).append(name)
    return grouped


def _cut(probe: Probe, names: set[str]) -> tuple[str, str]:
    """In whose forward the graph is cut, and by what, as far as it can be told."""
    trace: Trace = probe.run(training=True, gradient=True, record=True)
    missing = {id(parameter) for name, parameter in probe.trainable.items() if name in names}
    started = False
    for call in trace.calls:
        if any(id(p) in missing for p in call.module.parameters(recurse=False)):
            if tensors(call.output) and not any(t.requires_grad for t in tensors(call.output)):
                return call.name, "; its output has no graph: torch.no_grad(), or a cut in its forward"
            started = True
    cuts = [o for o in trace.operations if o.name in CUTS]
    if started and cuts:
        return cuts[0].layer, f"; {cuts[0].name} takes values out of the graph"
    return "", ""


def magnitudes(probe: Probe) -> Iterator[Verdict]:
    """Gradients are finite, and alike in size from the first layer to the last."""
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
                "Look behind it for a root or division at 0: sqrt(x + 1e-8), x / (y + 1e-8); torch.where "
                "passes the gradient of both branches.",
            )
            return
        # One-dimensional ones, and scales per channel, are of another kind.
        if parameter.dim() > 1 and parameter[0].numel() > 1 and (norm := parameter.detach().norm().item()) > 0:
            sizes[name] = gradient.norm().item() / norm
    called = [call.name for call in trace.calls if isinstance(call.module, (nn.Linear, _ConvNd))]
    ordered = [sizes[f"{name}.weight"] for name in dict.fromkeys(called) if sizes.get(f"{name}.weight")]
    name, largest = max(sizes.items(), key=lambda item: item[1], default=("", 0.0))
    if largest > EXPLODED:
        yield Verdict(
            "gradient_size",
            "warn",
            name.rpartition(".")[0],
            f"the gradient of {name} is {largest:.2g} times its weights",
            "Smaller first weights, normalisation, or clipping by norm.",
        )
    elif len(ordered) > 2 and ordered[0] < VANISHED * statistics.median(ordered[len(ordered) // 2 :]):
        first = next(name for name in called if sizes.get(f"{name}.weight"))
        yield Verdict(
            "gradient_size",
            "warn",
            first,
            f"relative to its weights, the first layer's gradient is "
            f"{ordered[0]:.2g}, that of the later half {statistics.median(ordered[len(ordered) // 2 :]):.2g}",
            "ReLU for sigmoid and tanh, normalisation between layers, residual connections.",
        )
    elif ordered:
        yield Verdict(
            "gradient_size",
            "pass",
            "",
            f"gradients of {min(sizes.values()):.1g} to {largest:.1g} times the weights",
            "",
        )


def hooks(probe: Probe) -> Iterator[Verdict]:
    """Hooks may scale and mask gradients; what they make of them should not lead uphill."""
    layers = [module for module in probe.network.modules() if module._backward_hooks]
    hooked = [parameter for parameter in probe.trainable.values() if parameter._backward_hooks]
    held: list[Any] = [owner._backward_hooks for owner in (*layers, *hooked)]
    if not held:
        return
    with_hooks = _gradients_without_chance(probe)
    contents = [list(hooks.items()) for hooks in held]
    probe.snapshot.restore()
    try:
        for hooks in held:
            hooks.clear()
        without = _gradients_without_chance(probe, fresh=False)
    finally:
        for hooks, items in zip(held, contents, strict=True):
            hooks.update(items)
    for name, one, other in zip(probe.trainable, with_hooks, without, strict=True):
        if one is None or other is None or one.is_complex() or not (product := (one * other).sum().item()) < 0:
            continue
        cosine = product / max((one.norm() * other.norm()).item(), 1e-30)
        if cosine < -0.1:
            yield Verdict(
                "hooks",
                "warn",
                name.rpartition(".")[0],
                f"with {sum(map(len, contents))} backward hooks, the gradient of {name} has a cosine of {cosine:.2f} "
                "with that of the loss: it leads uphill",
                "Right if it is meant, as a reversal of gradients; else return the gradient with its own sign.",
            )
            return


def _gradients_without_chance(probe: Probe, fresh: bool = True) -> list[Tensor | None]:
    trace = probe.run(training=True, gradient=True, quiet=(_DropoutNd,), fresh=fresh)
    return probe.gradients(probe.loss(trace.output), list(probe.trainable.values()))


def units(probe: Probe) -> Iterator[Verdict]:
    """Where no gradient reaches a good part of a layer's units, they are dead, or nothing takes what they give."""
    levels: dict[str, Tensor] = {}

    def look(call: Call, entering: bool) -> None:
        if (
            not entering
            and isinstance(call.module, UNITS)
            and isinstance(call.output, Tensor)
            and call.output.dim() > 1
        ):
            axis = 1 if isinstance(call.module, _ConvNd) else -1
            levels[call.name] = call.output.detach().abs().transpose(0, axis).flatten(1).mean(1)

    dead = _dead_units(probe, look)
    if not dead:
        return
    probe.snapshot.restore()
    with torch.no_grad():
        for name in dead:
            for parameter in probe.network.get_submodule(name).parameters(recurse=False):
                parameter.mul_(-0.1)  # a ReLU that was shut for all samples is open
    try:
        never = _dead_units(probe, fresh=False)
    except Raised:
        return  # what such weights do is nobody's fault
    for name, one in dead.items():
        unused = one & never[name] if name in never else torch.zeros_like(one)
        level = 0.0
        if name in levels and len(levels[name]) == len(one):
            level = (levels[name][one].median() / levels[name][~one].median().clamp(min=1e-30)).item()
        if unused.float().mean() >= MANY or level > FAR_BELOW:
            why = "whatever their weights" if unused.float().mean() >= MANY else "they lie far below those that do"
            yield Verdict(
                "units",
                "warn",
                name,
                f"{int(one.sum())} of {len(one)} units get a gradient of exactly 0 for {len(probe.inputs)} samples: "
                f"{why}",
                "Have the next layer take all of them, or make it smaller."
                if why.startswith("whatever")
                else "Check its first weights: biases far below zero.",
            )
            return


def _dead_units(probe: Probe, look: Look | None = None, fresh: bool = True) -> dict[str, Tensor]:
    """Which units of a layer get no gradient, for layers where it is many of them but not all."""
    layers = {
        f"{name}.weight".lstrip("."): (name, module)
        for name, module in probe.network.named_modules()
        if isinstance(module, UNITS) and f"{name}.weight".lstrip(".") in probe.trainable
    }
    trace = probe.run(training=True, gradient=True, quiet=(_DropoutNd,), look=look, fresh=fresh)
    gradients = probe.gradients(probe.loss(trace.output), [probe.trainable[weight] for weight in layers])
    found = {}
    for (name, _), gradient in zip(layers.values(), gradients, strict=True):
        if gradient is not None and len(gradient) >= ENOUGH:
            none = ~gradient.flatten(1).any(1)
            if MANY <= none.float().mean() < 1:
                found[name] = none
    return found
