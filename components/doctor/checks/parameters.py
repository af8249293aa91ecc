"""Checks of parameters and layer settings: frozen, unoptimized, constant or wasteful ones."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.activations import graph, through_views
from torchmill.components.doctor.checks.structure import HUGE, UNITS_FIRST
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.verdict import Verdict


def frozen(probe: Probe) -> Iterator[Verdict]:
    """Parameters that are not to be trained: deliberate in a backbone, a mistake where it is all of them."""
    parameters = probe.parameters
    still = [parameter for parameter in parameters if not parameter.requires_grad]
    numbers = (
        f"{sum(p.numel() for p in still):,} of {sum(p.numel() for p in parameters):,} parameters have "
        "requires_grad=False"
    )
    if len(still) == len(parameters):
        yield Verdict("frozen", "fail", "", f"{numbers}: nothing can learn", "Call requires_grad_(True) on some layer.")
    else:
        yield Verdict("frozen", "pass", "", numbers, "")


def optimized(probe: Probe) -> Iterator[Verdict]:
    """Every parameter that wants a gradient is in one group of the optimizer."""
    if probe.case.make_optimizer is None:
        return
    remedy = "Give the optimizer network.parameters(), or groups that together hold each parameter once."
    try:
        optimizer = probe.case.make_optimizer(probe.network)
    except Exception as error:  # an optimizer of the user's own, or of nothing
        yield Verdict(
            "optimizer",
            "fail",
            "",
            f"making the optimizer of {len(probe.trainable)} parameters raises {type(error).__name__}: {error}",
            remedy,
        )
        return
    found = False
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    for name, parameter in probe.trainable.items():
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
    foreign = len(set(held) - {id(parameter) for parameter in probe.parameters})
    if not found:
        yield Verdict("optimizer", "pass", "", f"all {len(probe.trainable)} parameter tensors are in 1 group", "")
    if foreign:
        yield Verdict("optimizer", "warn", "", f"it trains {foreign} parameters that are not the network's", remedy)
    for index, group in enumerate(optimizer.param_groups):
        if float(group.get("lr", 1)) == 0:
            yield Verdict("optimizer", "warn", "", f"group {index} has a learning rate of 0", "Give it one above 0.")


def settings(probe: Probe) -> Iterator[Verdict]:
    """Settings of layers with which they can't do what they are for."""
    for name, module in probe.network.named_modules():
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


def constant_weights(probe: Probe) -> Iterator[Verdict]:
    """Units that begin equal stay equal; zeros are right at the end of a network or of a residual branch."""
    products = _in_products(probe)
    for name, parameter in probe.trainable.items():
        owner = name.rpartition(".")[0]
        weight = parameter.detach()
        if weight.any() and (
            units := _equal_units(probe.network.get_submodule(owner), weight, id(parameter) in products)
        ):
            yield Verdict(
                "constant_weights",
                "fail",
                owner,
                f"all {units} units of {name} have the same weights (first: {weight.flatten()[0]:.3g}): they compute "
                "the same and mostly learn the same",
                "Fill it with random numbers: nn.init.kaiming_normal_ or torch's default.",
            )
    yield from _stuck_at_zero(probe)


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


def _in_products(probe: Probe) -> set[int]:
    """Ids of the parameters with which something is multiplied as with a matrix."""
    if probe.trained.logits.grad_fn is None:
        return set()
    found = set()
    for node in graph(probe.trained.logits.grad_fn):
        if any(part in type(node).__name__ for part in ("Mm", "mm", "Linear", "Convolution")):
            sources = [through_views(before) for before, _ in node.next_functions]
            found |= {id(source.variable) for source in sources if hasattr(source, "variable")}
    return found


def _stuck_at_zero(probe: Probe) -> Iterator[Verdict]:
    """Zeros whose gradient is zero and stays so, also when all that gets a gradient has moved."""
    zero = {name: p for name, p in probe.trainable.items() if p.is_floating_point() and not p.any()}
    stuck = {name for name, p in zero.items() if p.dim() > 1 and p.numel() > 1}
    probe.snapshot.restore()
    moved = True
    while stuck and moved:
        trace = probe.run(training=True, gradient=True, fresh=False)
        gradients = probe.gradients(probe.loss(trace.output), list(zero.values()))
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


def wasteful(probe: Probe) -> Iterator[Verdict]:
    """Parameters that do nothing, and layers that hold nearly all of them."""
    trace = probe.trained
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
    total = sum(parameter.numel() for parameter in probe.parameters)
    for name, module in probe.network.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > max(HUGE, 0.9 * total):
            yield Verdict(
                "wasteful",
                "warn",
                name,
                f"Linear({module.in_features}, {module.out_features}) holds {module.weight.numel():,} of {total:,} "
                "parameters",
                "Pool before it, e.g. nn.AdaptiveAvgPool2d(1): its inputs become one per channel.",
            )
