"""Checks of the network's structure: unregistered, shared or plain tensors, and useless methods."""

import inspect
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from torchmill.components.doctor.graph import all_nodes
from torchmill.components.doctor.probe import Probe, own_attributes, plain_tensors
from torchmill.components.doctor.trace import Call, Raised, is_users
from torchmill.components.doctor.verdict import Verdict

# Layers whose weights have one row per unit.
UNITS_FIRST = (nn.Linear, _ConvNd, nn.Embedding, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def registered(probe: Probe) -> Iterator[Verdict]:
    """Check for layers and parameters in plain containers, which are not trained, moved or saved."""
    used = _used(probe) if probe.unregistered else set()
    for place, value in probe.unregistered:
        parameters = list(value.parameters()) if isinstance(value, nn.Module) else [value]
        count = sum(parameter.numel() for parameter in parameters)
        if isinstance(value, nn.Module) and not parameters:
            continue  # a layer without parameters, for example an activation
        # A list commonly hides a frozen teacher from the weights, and an object holds an average of the weights.
        harmless = not any(parameter.requires_grad and id(parameter) in used for parameter in parameters)
        kind = "ParameterList or ParameterDict" if isinstance(value, nn.Parameter) else "ModuleList or ModuleDict"
        yield Verdict(
            "registered",
            "warn" if harmless else "fail",
            place,
            f"{type(value).__name__} with {count:,} parameters is in a plain list, dict or object: the network's "
            f"parameters() returns {sum(p.numel() for p in probe.parameters):,} without them",
            f"Keep it in an nn.{kind}, or as an attribute of a module, so that it is trained, saved and moved.",
        )
    returned = {id(parameter) for parameter in probe.network.parameters()}
    if omitted := [name for name, parameter in probe.network.named_parameters() if id(parameter) not in returned]:
        yield Verdict(
            "registered",
            "warn",
            omitted[0].rpartition(".")[0],
            f"the network's own parameters() omits {len(omitted)} of {len(probe.parameters)} parameter tensors, "
            f"{omitted[0]} first; named_parameters() has them, so they are trained nevertheless",
            "Delete that method; to freeze these parameters, call requires_grad_(False) on them.",
        )


def _used(probe: Probe) -> set[int]:
    """Return the ids of all trainable tensors that the output depends on; if forward fails, of all unregistered."""
    try:
        output = probe.train_trace.logits
    except Raised:
        output = None
    if not isinstance(output, Tensor) or output.grad_fn is None:
        values = [value for _, value in probe.unregistered]
        return {id(p) for value in values for p in (value.parameters() if isinstance(value, nn.Module) else [value])}
    return {id(node.variable) for node in all_nodes(output.grad_fn) if hasattr(node, "variable")}


def backward_methods(probe: Probe) -> Iterator[Verdict]:
    """Check for backward methods of modules, which autograd never calls."""
    seen = set()
    for name, module in probe.network.named_modules():
        for kind in type(module).__mro__:
            method = vars(kind).get("backward")
            if method is None or kind in seen or not inspect.isfunction(method):
                continue
            seen.add(kind)
            file, line = method.__code__.co_filename, method.__code__.co_firstlineno
            if is_users(file):
                yield Verdict(
                    "backward_method",
                    "fail",
                    name,
                    f"{kind.__name__}.backward ({Path(file).name} line {line}) is called 0 times: autograd "
                    "differentiates forward and ignores a module's backward",
                    "Delete it, or make it a torch.autograd.Function with forward and backward, called by .apply().",
                )


def plain(probe: Probe) -> Iterator[Verdict]:
    """Check for tensors in plain attributes, which stay on the CPU and are not saved."""
    before = dict(plain_tensors(probe.network))
    strays = {stray.origin for trace in (probe.eval_trace, probe.train_trace) for stray in trace.strays}
    probe.run()
    after = plain_tensors(probe.network)
    after_ids = {id(value) for _, value in after}
    # Places that forward writes to; it may have run before, so a place may have held a tensor already.
    written = {place for place, value in after if place not in before or id(before[place]) != id(value)}
    written |= {place for place, value in before.items() if id(value) not in after_ids}
    containers = tuple(f"{place.partition('[')[0]}[" for place in written)
    for place, value in before.items():
        if place not in written and not place.startswith(containers):
            yield from _from_constructor(probe, place, value, place in strays)
    yield from _growing(probe, len(after))
    for place, value in after:
        if place in written and value.dim():
            yield Verdict(
                "plain_tensor",
                "warn",
                place.rpartition(".")[0],
                f"forward stores {place} {tuple(value.shape)} until the next forward",
                "Return it, or use a local variable: a stored tensor keeps its memory and its graph alive.",
            )


def _from_constructor(probe: Probe, place: str, value: Tensor, used: bool) -> Iterator[Verdict]:
    """Judge a plain tensor that the constructor made."""
    owner, _, name = place.rpartition(".")
    in_container = "[" in place
    owner = place.partition("[")[0].rpartition(".")[0] if in_container else owner
    if value.is_leaf and value.requires_grad:
        yield Verdict(
            "plain_tensor",
            "fail",
            owner,
            f"{place} {tuple(value.shape)} requires a gradient but is none of the {len(probe.parameters)} "
            "parameters: no optimizer trains it",
            "Keep it in an nn.ParameterList or nn.ParameterDict."
            if in_container
            else f"Make it a parameter: self.{name} = nn.Parameter(...).",
        )
    elif value.dim() and value.is_leaf:
        consequence = ", where forward combines it with tensors that moved" if used else ""
        yield Verdict(
            "plain_tensor",
            "fail" if used else "warn",
            owner,
            f"{place}, {value.numel():,} values, is neither a parameter nor a buffer: it stays on the CPU when the "
            f"network moves{consequence}",
            "Register it as a buffer with register_buffer, or keep it as an nn.Parameter to train it. With "
            "persistent=False, a buffer is not saved."
            if in_container
            else f"Write self.register_buffer('{name}', tensor), or self.{name} = nn.Parameter(tensor) to train it. "
            "With persistent=False, a buffer is not saved.",
        )


def _growing(probe: Probe, count: int) -> Iterator[Verdict]:
    """Check for containers that each forward adds a tensor to, so that no graph is ever freed."""
    if not any(isinstance(value, (list, dict, deque)) for _, _, value in own_attributes(probe.network)):
        return
    counts = [count]
    for _ in range(2):
        probe.run(training=True, gradient=True, restore=False)
        counts.append(len(stored := plain_tensors(probe.network)))
    if counts[0] < counts[1] < counts[2]:
        place = stored[-1][0].partition("[")[0]
        with_graph = sum(value.grad_fn is not None for _, value in stored)
        yield Verdict(
            "plain_tensor",
            "warn",
            place.rpartition(".")[0],
            f"{place} grows: it holds {', '.join(map(str, counts))} tensors after 1, 2 and 3 forwards"
            + (f", {with_graph} of them with their whole graph" if with_graph else ""),
            "Store numbers instead of tensors (value.item() outside forward), or use a deque with a maxlen. Otherwise "
            "memory runs out.",
        )


def shared(probe: Probe) -> Iterator[Verdict]:
    """Check for layers and parameters under several names: deliberate for tied weights, a mistake in [layer] * 3."""
    reported: set[int] = set()
    places: dict[int, list[str]] = {}
    for name, module in probe.network.named_modules(remove_duplicate=False):
        if next(module.parameters(), None) is not None:
            places.setdefault(id(module), []).append(name)
    for identity, names in places.items():
        if len(names) < 2 or identity in reported:
            continue
        module = probe.network.get_submodule(names[0])
        reported |= {id(inner) for inner in (*module.modules(), *module.parameters())}
        yield Verdict(
            "shared",
            "warn",
            names[0],
            f"one layer of {sum(p.numel() for p in module.parameters()):,} parameters is in {len(names)} places: "
            f"{', '.join(names[:4])}",
            "If each place should learn its own weights, make a layer for each: [make() for _ in range(n)], not "
            "[layer] * n.",
        )
    yield from _shared_parameters(probe, reported)


def _shared_parameters(probe: Probe, reported: set[int]) -> Iterator[Verdict]:
    parameters: dict[tuple[object, ...], list[str]] = {}
    for name, parameter in probe.network.named_parameters(remove_duplicate=False):
        if id(parameter) not in reported:
            # Compare memory: after an assignment to .data, two parameters are one.
            memory = (parameter.data_ptr(), parameter.shape) if _has_memory(parameter) else (id(parameter),)
            parameters.setdefault(memory, []).append(name)
    for names in parameters.values():
        if len(names) > 1:
            yield Verdict(
                "shared",
                "warn",
                names[0].rpartition(".")[0],
                f"one parameter has {len(names)} names: {', '.join(names[:4])}",
                "Keep it for tied weights (embedding and output); otherwise give each layer its own nn.Parameter.",
            )


def _has_memory(parameter: nn.Parameter) -> bool:
    return parameter.layout is torch.strided and not parameter.is_meta and parameter.numel() > 0


def shared_norms(probe: Probe) -> Iterator[Verdict]:
    """Check for a batch normalization after two layers: its running statistics fit neither."""
    sources: dict[int, set[int]] = {}
    latest: dict[int, Call] = {}
    for call in probe.train_trace.calls:
        parent = id(call.parent)
        if isinstance(call.module, _BatchNorm) and parent in latest:
            sources.setdefault(id(call.module), set()).add(id(latest[parent].module))
            count = len(sources[id(call.module)])
            if count > 1 and call.module.track_running_stats:
                yield Verdict(
                    "shared_norm",
                    "warn",
                    call.name,
                    f"one {type(call.module).__name__} follows {count} layers, the second is {latest[parent].name}: "
                    "its running mean and variance mix both, and evaluation uses them",
                    "Use one normalization per place.",
                )
                return
        latest[parent] = call
