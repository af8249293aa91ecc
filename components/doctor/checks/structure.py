"""How the network is put together: what is registered, shared, frozen, wasted. No forward is needed, or one at most."""

import inspect
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from torchmill.components.doctor.checks.activations import graph
from torchmill.components.doctor.probe import Probe, attributes, plain_tensors
from torchmill.components.doctor.trace import Call, Raised, is_users
from torchmill.components.doctor.verdict import Verdict

HUGE = 4_000_000

# Layers whose weights have one row for each unit.
UNITS_FIRST = (nn.Linear, _ConvNd, nn.Embedding, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def registered(probe: Probe) -> Iterator[Verdict]:
    """Layers and parameters in plain lists, tuples and dicts: no optimizer, no device and no file gets them."""
    used = _used(probe) if probe.unregistered else set()
    for place, value in probe.unregistered:
        parameters = list(value.parameters()) if isinstance(value, nn.Module) else [value]
        count = sum(parameter.numel() for parameter in parameters)
        if isinstance(value, nn.Module) and not parameters:
            continue  # an activation: nothing is lost
        # A list round a frozen network is a known way to keep a teacher out of the weights; an average of the weights
        # is kept in an object of its own.
        harmless = not any(parameter.requires_grad and id(parameter) in used for parameter in parameters)
        kind = "ParameterList or ParameterDict" if isinstance(value, nn.Parameter) else "ModuleList or ModuleDict"
        yield Verdict(
            "registered",
            "warn" if harmless else "fail",
            place,
            f"{type(value).__name__} with {count:,} parameters is kept in a plain list, dict or object: parameters() "
            f"of the network gives {sum(p.numel() for p in probe.parameters):,} without them",
            f"Keep it in an nn.{kind}, or as an attribute of a module, so that it is trained, saved and moved.",
        )
    given = {id(parameter) for parameter in probe.network.parameters()}
    if left := [name for name, parameter in probe.network.named_parameters() if id(parameter) not in given]:
        yield Verdict(
            "registered",
            "warn",
            left[0].rpartition(".")[0],
            f"a parameters() of the network's own leaves out {len(left)} of {len(probe.parameters)} parameter "
            f"tensors, {left[0]} first; named_parameters() has them, so that they are trained all the same",
            "Delete it; to train the others alone, call requires_grad_(False) on these.",
        )


def _used(probe: Probe) -> set[int]:
    """Ids of all tensors that want a gradient and on which the output depends; of those unregistered, if it fails."""
    try:
        output = probe.trained.logits
    except Raised:
        output = None
    if not isinstance(output, Tensor) or output.grad_fn is None:
        values = [value for _, value in probe.unregistered]
        return {id(p) for value in values for p in (value.parameters() if isinstance(value, nn.Module) else [value])}
    return {id(node.variable) for node in graph(output.grad_fn) if hasattr(node, "variable")}


def backward_methods(probe: Probe) -> Iterator[Verdict]:
    """A method backward on a module: autograd never calls it."""
    told = set()
    for name, module in probe.network.named_modules():
        for kind in type(module).__mro__:
            method = vars(kind).get("backward")
            if method is None or kind in told or not inspect.isfunction(method):
                continue
            told.add(kind)
            file, line = method.__code__.co_filename, method.__code__.co_firstlineno
            if is_users(file):
                yield Verdict(
                    "backward_method",
                    "fail",
                    name,
                    f"{kind.__name__}.backward ({Path(file).name} line {line}) is called 0 times: autograd "
                    "differentiates forward by itself and ignores a module's backward",
                    "Delete it, or make it a torch.autograd.Function with forward and backward, called by .apply().",
                )


def plain(probe: Probe) -> Iterator[Verdict]:
    """Tensors kept as plain attributes: they stay on the CPU and are not saved."""
    before = dict(plain_tensors(probe.network))
    strays = {origin for trace in (probe.evaluated, probe.trained) for _, _, origin in trace.strays}
    probe.run()
    later = plain_tensors(probe.network)
    held = {id(value) for _, value in later}
    # Forward may have run before: what it makes anew is its own, whenever that was first.
    left = {place for place, value in later if place not in before or id(before[place]) != id(value)}
    left |= {place for place, value in before.items() if id(value) not in held}
    for place, value in before.items():
        if place not in left and not any(place.startswith(f"{one.partition('[')[0]}[") for one in left):
            yield from _kept(probe, place, value, place in strays)
    yield from _growing(probe, len(later))
    for place, value in later:
        if place in left and value.dim():
            yield Verdict(
                "plain_tensor",
                "warn",
                place.rpartition(".")[0],
                f"{place} {tuple(value.shape)} is left behind by forward and kept until the next one",
                "Return it, or keep it in a local variable: what is kept holds memory, and its graph with it.",
            )


def _kept(probe: Probe, place: str, value: Tensor, used: bool) -> Iterator[Verdict]:
    """A plain tensor that the constructor made."""
    owner, _, name = place.rpartition(".")
    in_container = "[" in place
    owner = place.partition("[")[0].rpartition(".")[0] if in_container else owner
    if value.is_leaf and value.requires_grad:
        yield Verdict(
            "plain_tensor",
            "fail",
            owner,
            f"{place} {tuple(value.shape)} wants a gradient, yet it is none of the {len(probe.parameters)} "
            "parameters: no optimizer trains it",
            "Keep it in an nn.ParameterList or nn.ParameterDict."
            if in_container
            else f"Wrap it: self.{name} = nn.Parameter(...).",
        )
    elif value.dim() and value.is_leaf:
        yield Verdict(
            "plain_tensor",
            "fail" if used else "warn",
            owner,
            f"{place}, {value.numel():,} numbers, is neither parameter nor buffer: it stays on the CPU when the "
            f"network moves{', where the forward meets it with tensors that moved' if used else ''}",
            f"self.register_buffer('{name}', tensor), with persistent=False it is not saved; or, if it is "
            f"to learn, self.{name} = nn.Parameter(tensor)."
            if not in_container
            else "Keep it by register_buffer under a name of its own, with persistent=False it is not saved; as an "
            "nn.Parameter if it is to learn.",
        )


def _growing(probe: Probe, count: int) -> Iterator[Verdict]:
    """What each forward adds a tensor to is never freed, nor are the graphs behind them."""
    if not any(isinstance(value, (list, dict, deque)) for _, _, value in attributes(probe.network)):
        return
    held = [count]
    for _ in range(2):
        probe.run(training=True, gradient=True, fresh=False)
        held.append(len(now := plain_tensors(probe.network)))
    if held[0] < held[1] < held[2]:
        place = now[-1][0].partition("[")[0]
        with_graph = sum(value.grad_fn is not None for _, value in now)
        yield Verdict(
            "plain_tensor",
            "warn",
            place.rpartition(".")[0],
            f"{place} grows: {', '.join(map(str, held))} tensors are held after 1, 2 and 3 forwards"
            + (f", {with_graph} of them with the whole graph that they came from" if with_graph else ""),
            "Keep numbers, not tensors (value.item() outside of forward), or a deque with a maxlen: memory runs out.",
        )


def shared(probe: Probe) -> Iterator[Verdict]:
    """One parameter under several names: meant for tied weights, an accident in [layer] * 3."""
    places: dict[int, list[str]] = {}
    told: set[int] = set()
    for name, module in probe.network.named_modules(remove_duplicate=False):
        if next(module.parameters(), None) is not None:
            places.setdefault(id(module), []).append(name)
    for identity, names in places.items():
        if len(names) < 2 or identity in told:
            continue
        module = probe.network.get_submodule(names[0])
        told |= {id(inner) for inner in (*module.modules(), *module.parameters())}
        yield Verdict(
            "shared",
            "warn",
            names[0],
            f"one layer of {sum(p.numel() for p in module.parameters()):,} parameters stands in {len(names)} places: "
            f"{', '.join(names[:4])}",
            "If each was to learn its own, make a new layer for each: [make() for _ in range(n)], not [layer] * n.",
        )
    parameters: dict[tuple[object, ...], list[str]] = {}
    for name, parameter in probe.network.named_parameters(remove_duplicate=False):
        if id(parameter) not in told:
            # By the memory that it looks at: assigned through .data, two parameters are one.
            place = (parameter.data_ptr(), parameter.shape) if _is_in_memory(parameter) else (id(parameter),)
            parameters.setdefault(place, []).append(name)
    for names in parameters.values():
        if len(names) > 1:
            yield Verdict(
                "shared",
                "warn",
                names[0].rpartition(".")[0],
                f"one parameter has {len(names)} names: {', '.join(names[:4])}",
                "Right for tied weights (embedding and output); else give each its own nn.Parameter.",
            )


def _is_in_memory(parameter: nn.Parameter) -> bool:
    return parameter.layout is torch.strided and not parameter.is_meta and parameter.numel() > 0


def norms_at_two_places(probe: Probe) -> Iterator[Verdict]:
    """One batch normalisation behind two layers: its running statistics fit neither of them."""
    behind: dict[int, set[int]] = {}
    latest: dict[int, Call] = {}
    for call in probe.trained.calls:
        parent = id(call.parent)
        if isinstance(call.module, _BatchNorm) and parent in latest:
            behind.setdefault(id(call.module), set()).add(id(latest[parent].module))
            if len(behind[id(call.module)]) > 1 and call.module.track_running_stats:
                yield Verdict(
                    "shared_norm",
                    "warn",
                    call.name,
                    f"one {type(call.module).__name__} stands behind {len(behind[id(call.module)])} layers, the second "
                    f"{latest[parent].name}: its running mean and variance mix both, and evaluation uses them",
                    "A normalisation of its own for each place.",
                )
                return
        latest[parent] = call
