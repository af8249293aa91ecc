"""How the network is put together: what is registered, shared, frozen, wasted. No forward is needed, or one at most."""

import inspect
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.activations import graph, through_views
from torchmill.components.doctor.subject import Subject, attributes, plain_tensors
from torchmill.components.doctor.trace import Call, Raised, is_users
from torchmill.components.doctor.verdict import Verdict

HUGE = 4_000_000
# Layers whose weights have one row for each unit.
UNITS_FIRST = (nn.Linear, _ConvNd, nn.Embedding, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def registered(subject: Subject) -> Iterator[Verdict]:
    """Layers and parameters in plain lists, tuples and dicts: no optimizer, no device and no file gets them."""
    used = _used(subject) if subject.unregistered else set()
    for place, value in subject.unregistered:
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
            f"of the network gives {sum(p.numel() for p in subject.parameters):,} without them",
            f"Keep it in an nn.{kind}, or as an attribute of a module, so that it is trained, saved and moved.",
        )
    given = {id(parameter) for parameter in subject.network.parameters()}
    if left := [name for name, parameter in subject.network.named_parameters() if id(parameter) not in given]:
        yield Verdict(
            "registered",
            "warn",
            left[0].rpartition(".")[0],
            f"a parameters() of the network's own leaves out {len(left)} of {len(subject.parameters)} parameter "
            f"tensors, {left[0]} first; named_parameters() has them, so that they are trained all the same",
            "Delete it; to train the others alone, call requires_grad_(False) on these.",
        )


def _used(subject: Subject) -> set[int]:
    """Ids of all tensors that want a gradient and on which the output depends; of those unregistered, if it fails."""
    try:
        output = subject.trained.logits
    except Raised:
        output = None
    if not isinstance(output, Tensor) or output.grad_fn is None:
        values = [value for _, value in subject.unregistered]
        return {id(p) for value in values for p in (value.parameters() if isinstance(value, nn.Module) else [value])}
    return {id(node.variable) for node in graph(output.grad_fn) if hasattr(node, "variable")}


def backward_methods(subject: Subject) -> Iterator[Verdict]:
    """A method backward on a module: autograd never calls it."""
    told = set()
    for name, module in subject.network.named_modules():
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


def plain(subject: Subject) -> Iterator[Verdict]:
    """Tensors kept as plain attributes: they stay on the CPU and are not saved."""
    before = dict(plain_tensors(subject.network))
    strays = {origin for trace in (subject.evaluated, subject.trained) for _, _, origin in trace.strays}
    subject.run()
    later = plain_tensors(subject.network)
    held = {id(value) for _, value in later}
    # Forward may have run before: what it makes anew is its own, whenever that was first.
    left = {place for place, value in later if place not in before or id(before[place]) != id(value)}
    left |= {place for place, value in before.items() if id(value) not in held}
    for place, value in before.items():
        if place not in left and not any(place.startswith(f"{one.partition('[')[0]}[") for one in left):
            yield from _kept(subject, place, value, place in strays)
    yield from _growing(subject, len(later))
    for place, value in later:
        if place in left and value.dim():
            yield Verdict(
                "plain_tensor",
                "warn",
                place.rpartition(".")[0],
                f"{place} {tuple(value.shape)} is left behind by forward and kept until the next one",
                "Return it, or keep it in a local variable: what is kept holds memory, and its graph with it.",
            )


def _kept(subject: Subject, place: str, value: Tensor, used: bool) -> Iterator[Verdict]:
    """A plain tensor that the constructor made."""
    owner, _, name = place.rpartition(".")
    in_container = "[" in place
    owner = place.partition("[")[0].rpartition(".")[0] if in_container else owner
    if value.is_leaf and value.requires_grad:
        yield Verdict(
            "plain_tensor",
            "fail",
            owner,
            f"{place} {tuple(value.shape)} wants a gradient, yet it is none of the {len(subject.parameters)} "
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


def _growing(subject: Subject, count: int) -> Iterator[Verdict]:
    """What each forward adds a tensor to is never freed, nor are the graphs behind them."""
    if not any(isinstance(value, (list, dict, deque)) for _, _, value in attributes(subject.network)):
        return
    held = [count]
    for _ in range(2):
        subject.run(training=True, gradient=True, fresh=False)
        held.append(len(now := plain_tensors(subject.network)))
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


def shared(subject: Subject) -> Iterator[Verdict]:
    """One parameter under several names: meant for tied weights, an accident in [layer] * 3."""
    places: dict[int, list[str]] = {}
    told: set[int] = set()
    for name, module in subject.network.named_modules(remove_duplicate=False):
        if next(module.parameters(), None) is not None:
            places.setdefault(id(module), []).append(name)
    for identity, names in places.items():
        if len(names) < 2 or identity in told:
            continue
        module = subject.network.get_submodule(names[0])
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
    for name, parameter in subject.network.named_parameters(remove_duplicate=False):
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


def norms_at_two_places(subject: Subject) -> Iterator[Verdict]:
    """One batch normalisation behind two layers: its running statistics fit neither of them."""
    behind: dict[int, set[int]] = {}
    latest: dict[int, Call] = {}
    for call in subject.trained.calls:
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


def frozen(subject: Subject) -> Iterator[Verdict]:
    """Parameters that are not to be trained: deliberate in a backbone, a mistake where it is all of them."""
    parameters = subject.parameters
    still = [parameter for parameter in parameters if not parameter.requires_grad]
    numbers = (
        f"{sum(p.numel() for p in still):,} of {sum(p.numel() for p in parameters):,} parameters have "
        "requires_grad=False"
    )
    if len(still) == len(parameters):
        yield Verdict("frozen", "fail", "", f"{numbers}: nothing can learn", "Call requires_grad_(True) on some layer.")
    else:
        yield Verdict("frozen", "pass", "", numbers, "")


def optimized(subject: Subject) -> Iterator[Verdict]:
    """Every parameter that wants a gradient is in one group of the optimizer."""
    if subject.case.make_optimizer is None:
        return
    remedy = "Give the optimizer network.parameters(), or groups that together hold each parameter once."
    try:
        optimizer = subject.case.make_optimizer(subject.network)
    except Exception as error:  # an optimizer of the user's own, or of nothing
        yield Verdict(
            "optimizer",
            "fail",
            "",
            f"making the optimizer of {len(subject.trainable)} parameters raises {type(error).__name__}: {error}",
            remedy,
        )
        return
    found = False
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in subject.trainable.items():
        if (times := held.count(id(parameter))) != 1:
            found = True
            yield Verdict(
                "optimizer",
                "fail",
                name.rpartition(".")[0],
                f"{name} ({parameter.numel():,} numbers) is in {times} of {len(optimizer.param_groups)} groups of the "
                "optimizer and would not be trained"
                if not times
                else f"{name} is in {times} groups of the optimizer",
                remedy,
            )
    foreign = len(set(held) - {id(parameter) for parameter in subject.parameters})
    if not found:
        yield Verdict("optimizer", "pass", "", f"all {len(subject.trainable)} parameter tensors are in 1 group", "")
    if foreign:
        yield Verdict("optimizer", "warn", "", f"it trains {foreign} parameters that are not the network's", remedy)
    for index, group in enumerate(optimizer.param_groups):
        if float(group.get("lr", 1)) == 0:
            yield Verdict("optimizer", "warn", "", f"group {index} has a learning rate of 0", "Give it one above 0.")


def settings(subject: Subject) -> Iterator[Verdict]:
    """Settings of layers with which they can't do what they are for."""
    for name, module in subject.network.named_modules():
        if isinstance(module, _DropoutNd) and module.p >= 0.9:
            yield Verdict(
                "settings",
                "fail" if module.p >= 1 else "warn",
                name,
                f"drops a part of {module.p:g} of all values in training: {1 - module.p:.0%} is left",
                "0.1 to 0.5 is usual.",
            )
        if isinstance(module, nn.RNNBase) and module.dropout and module.num_layers == 1:
            yield Verdict(
                "settings",
                "warn",
                name,
                f"dropout {module.dropout:g} with 1 layer drops 0 values: it acts between layers alone",
                "num_layers=2 or more, or an nn.Dropout behind it.",
            )
        if not isinstance(module, _BatchNorm):
            continue
        if module.track_running_stats and module.momentum == 0:
            yield Verdict(
                "settings",
                "fail",
                name,
                "momentum 0: the running mean and variance stay at 0 and 1, and evaluation uses them",
                "momentum is the weight of the new batch; 0.1 is torch's default.",
            )
        if module.track_running_stats and (module.momentum or 0) > 0.5:
            yield Verdict(
                "settings",
                "warn",
                name,
                f"momentum {module.momentum:g}: of the running mean and variance, which evaluation uses, "
                f"{1 - module.momentum:.0%} is left after each batch",
                f"momentum is the weight of the new batch; Keras' {module.momentum:g} is torch's "
                f"{1 - module.momentum:.2g}."
                if module.momentum < 1
                else "momentum is the weight of the new batch; 0.1 is torch's default.",
            )
        if module.eps >= 0.1:
            yield Verdict(
                "settings",
                "fail" if module.eps >= 1 else "warn",
                name,
                f"eps {module.eps:g} is added to variances of about 1: it hardly normalises",
                "1e-5 is torch's default, 1e-3 the largest in use.",
            )


def constant_weights(subject: Subject) -> Iterator[Verdict]:
    """Units that begin equal stay equal; zeros are right at the end of a network or of a residual branch."""
    products = _in_products(subject)
    for name, parameter in subject.trainable.items():
        owner = name.rpartition(".")[0]
        weight = parameter.detach()
        if weight.any() and (
            units := _equal_units(subject.network.get_submodule(owner), weight, id(parameter) in products)
        ):
            yield Verdict(
                "constant_weights",
                "fail",
                owner,
                f"all {units} units of {name} have the same weights (first: {weight.flatten()[0]:.3g}): they compute "
                "the same and mostly learn the same",
                "Fill it with random numbers: nn.init.kaiming_normal_ or torch's default.",
            )
    yield from _stuck_at_zero(subject)


def _equal_units(layer: nn.Module, weight: Tensor, in_product: bool) -> int:
    """How many units have the same weights, all of them; 0 where they differ, or none is known to be a unit."""
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return 0  # one unit per channel, each with an input of its own
    if isinstance(layer, UNITS_FIRST):
        axes = (0,) if weight.dim() > 1 and weight[0].numel() > 1 else ()
    else:  # a matrix of the user's own, either way round; what only scales has no units
        weight = weight.squeeze()
        averages = torch.allclose(weight.sum(-1), torch.ones((), dtype=weight.dtype)) if weight.dim() else False
        axes = (0, 1) if in_product and weight.dim() == 2 and not averages else ()
    for axis in axes:
        if weight.shape[axis] > 1 and torch.equal(weight, weight.narrow(axis, 0, 1).expand_as(weight)):
            return weight.shape[axis]
    return 0


def _in_products(subject: Subject) -> set[int]:
    """Ids of the parameters with which something is multiplied as with a matrix."""
    if subject.trained.logits.grad_fn is None:
        return set()
    found = set()
    for node in graph(subject.trained.logits.grad_fn):
        if any(part in type(node).__name__ for part in ("Mm", "mm", "Linear", "Convolution")):
            sources = [through_views(before) for before, _ in node.next_functions]
            found |= {id(source.variable) for source in sources if hasattr(source, "variable")}
    return found


def _stuck_at_zero(subject: Subject) -> Iterator[Verdict]:
    """Zeros whose gradient is zero and stays so, also when all that gets a gradient has moved."""
    zero = {name: p for name, p in subject.trainable.items() if p.is_floating_point() and not p.any()}
    stuck = {name for name, p in zero.items() if p.dim() > 1 and p.numel() > 1}
    subject.snapshot.restore()
    moved = True
    while stuck and moved:
        trace = subject.run(training=True, gradient=True, fresh=False)
        gradients = subject.gradients(subject.loss(trace.output), list(zero.values()))
        got = [name for name, gradient in zip(zero, gradients, strict=True) if gradient is None or gradient.any()]
        stuck -= set(got)
        moved = bool(got)
        with torch.no_grad():
            for name in got:
                zero.pop(name).data.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    for name in (name for name in zero if name in stuck):
        yield Verdict(
            "constant_weights",
            "fail",
            name.rpartition(".")[0],
            f"all {zero[name].numel():,} numbers of {name} are zero, and so is their gradient: they stay zero",
            "Fill it with random numbers: nn.init.kaiming_normal_ or torch's default. Of two factors, such as the "
            "two matrices of a low-rank update, only one may begin at zero.",
        )


def wasteful(subject: Subject) -> Iterator[Verdict]:
    """Parameters that do nothing, and layers that hold nearly all of them."""
    trace = subject.trained
    outputs = {call.output_node: call for call in trace.calls if isinstance(call.module, (nn.Linear, _ConvNd))}
    inert: dict[str, int] = {}
    for call in trace.calls:
        before = outputs.get(call.input_node) if call.input_node is not None else None
        if isinstance(call.module, _BatchNorm) and before is not None and call.module.training:
            bias = before.module.bias
            if isinstance(bias, Tensor) and bias.requires_grad:
                inert[before.name] = bias.numel()
    if inert:
        yield Verdict(
            "wasteful",
            "warn",
            next(iter(inert)),
            f"batch normalisation takes the mean away right after {len(inert)} "
            f"{'layer' if len(inert) == 1 else 'layers'} with a bias ({sum(inert.values()):,} parameters without "
            f"effect): {', '.join(list(inert)[:4])}",
            "bias=False there.",
        )
    total = sum(parameter.numel() for parameter in subject.parameters)
    for name, module in subject.network.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > max(HUGE, 0.9 * total):
            yield Verdict(
                "wasteful",
                "warn",
                name,
                f"Linear({module.in_features}, {module.out_features}) holds {module.weight.numel():,} of {total:,} "
                "parameters",
                "Pool before it, e.g. nn.AdaptiveAvgPool2d(1): its inputs become one per channel.",
            )
