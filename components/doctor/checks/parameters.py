"""Checks of parameters and layer settings: frozen, not optimized, constant or wasteful."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.checks.structure import UNITS_FIRST
from torchmill.components.doctor.graph import all_nodes, through_views
from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.verdict import Verdict

# Smallest weight to call huge.
HUGE = 4_000_000
MOMENTUM_REMEDY = "Use torch's default of 0.1; momentum is the weight of the new batch."


def frozen(probe: Probe) -> Iterator[Verdict]:
    """Count frozen parameters: deliberate in a backbone, a mistake if it is all of them."""
    parameters = probe.parameters
    still = [parameter for parameter in parameters if not parameter.requires_grad]
    numbers = (
        f"{sum(p.numel() for p in still):,} of {sum(p.numel() for p in parameters):,} parameters have "
        "requires_grad=False"
    )
    if len(still) == len(parameters):
        remedy = "Call requires_grad_(True) on a layer."
        yield Verdict("frozen", "fail", "", f"{numbers}: nothing can learn", remedy)
    else:
        yield Verdict("frozen", "pass", "", numbers, "")


def optimized(probe: Probe) -> Iterator[Verdict]:
    """Check that every trainable parameter is in exactly one group of the optimizer."""
    if probe.check_input.make_optimizer is None:
        return
    remedy = "Give the optimizer network.parameters(), or groups that together hold each parameter once."
    try:
        optimizer = probe.check_input.make_optimizer(probe.network)
    except Exception as error:  # a custom optimizer, or one without parameters
        yield Verdict(
            "optimizer",
            "fail",
            "",
            f"making the optimizer of {len(probe.trainable)} parameters raises {type(error).__name__}: {error}",
            remedy,
        )
        return
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    wrong = {name: times for name, p in probe.trainable.items() if (times := grouped.count(id(p))) != 1}
    for name, times in wrong.items():
        yield Verdict(
            "optimizer",
            "fail",
            name.rpartition(".")[0],
            f"{name} is in {times} groups of the optimizer"
            if times
            else f"{name} ({probe.trainable[name].numel():,} values) is in 0 of {len(optimizer.param_groups)} groups "
            "of the optimizer and would not be trained",
            remedy,
        )
    if not wrong:
        yield Verdict("optimizer", "pass", "", f"all {len(probe.trainable)} parameter tensors are in 1 group", "")
    foreign = len(set(grouped) - {id(parameter) for parameter in probe.parameters})
    if foreign:
        evidence = f"the optimizer trains {foreign} parameters that are not the network's"
        yield Verdict("optimizer", "warn", "", evidence, remedy)
    for index, group in enumerate(optimizer.param_groups):
        if float(group.get("lr", 1)) == 0:
            evidence = f"group {index} of the optimizer has a learning rate of 0"
            yield Verdict("optimizer", "warn", "", evidence, "Set a learning rate above 0.")


def settings(probe: Probe) -> Iterator[Verdict]:
    """Check for settings that defeat the purpose of a layer."""
    for name, module in probe.network.named_modules():
        if isinstance(module, _DropoutNd) and module.p >= 0.9:
            yield Verdict(
                "settings",
                "fail" if module.p >= 1 else "warn",
                name,
                f"with p={module.p:g}, only {1 - module.p:.0%} of all values remain in training",
                "Use a usual rate of 0.1 to 0.5.",
            )
        if isinstance(module, nn.RNNBase) and module.dropout and module.num_layers == 1:
            yield Verdict(
                "settings",
                "warn",
                name,
                f"dropout {module.dropout:g} with 1 layer drops 0 values: it acts only between layers",
                "Use num_layers=2 or more, or an nn.Dropout after this layer.",
            )
        if isinstance(module, _BatchNorm):
            yield from _norm_settings(name, module)


def _norm_settings(name: str, module: _BatchNorm) -> Iterator[Verdict]:
    momentum = module.momentum
    if module.track_running_stats and momentum == 0:
        yield Verdict(
            "settings",
            "fail",
            name,
            "with momentum 0, the running mean and variance stay at 0 and 1, and evaluation uses them",
            MOMENTUM_REMEDY,
        )
    if module.track_running_stats and momentum is not None and momentum > 0.5:
        yield Verdict(
            "settings",
            "warn",
            name,
            f"with momentum {momentum:g}, each batch replaces {momentum:.0%} of the running mean and variance, which "
            "evaluation uses",
            f"Use {1 - momentum:.2g} for the momentum that Keras calls {momentum:g}: in torch it is the weight of the "
            "new batch."
            if momentum < 1
            else MOMENTUM_REMEDY,
        )
    if module.eps >= 0.1:
        yield Verdict(
            "settings",
            "fail" if module.eps >= 1 else "warn",
            name,
            f"eps {module.eps:g} is added to variances of about 1: the layer hardly normalizes",
            "Use torch's default of 1e-5, or at most 1e-3.",
        )


def constant_weights(probe: Probe) -> Iterator[Verdict]:
    """Check for units with equal weights, which stay equal, and for zeros that can never change."""
    factors = _matrix_factors(probe)
    for name, parameter in probe.trainable.items():
        owner = name.rpartition(".")[0]
        weight = parameter.detach()
        if weight.any() and (
            units := _equal_units(probe.network.get_submodule(owner), weight, id(parameter) in factors)
        ):
            yield Verdict(
                "constant_weights",
                "fail",
                owner,
                f"all {units} units of {name} have the same weights (first: {weight.flatten()[0]:.3g}): they compute "
                "and mostly learn the same",
                "Fill it with random numbers: nn.init.kaiming_normal_ or torch's default.",
            )
    yield from _stuck_at_zero(probe)


def _equal_units(layer: nn.Module, weight: Tensor, is_factor: bool) -> int:
    """Return the number of units if all have the same weights; 0 if they differ, or if there are no units."""
    if isinstance(layer, _ConvNd) and layer.groups > 1:
        return 0  # each channel has its own input
    if isinstance(layer, UNITS_FIRST):
        axes = (0,) if weight.dim() > 1 and weight[0].numel() > 1 else ()
    else:  # a user's own matrix, with units in rows or columns; a scale has no units
        weight = weight.squeeze()
        averages = torch.allclose(weight.sum(-1), torch.ones((), dtype=weight.dtype)) if weight.dim() else False
        axes = (0, 1) if is_factor and weight.dim() == 2 and not averages else ()
    for axis in axes:
        if weight.shape[axis] > 1 and torch.equal(weight, weight.narrow(axis, 0, 1).expand_as(weight)):
            return weight.shape[axis]
    return 0


def _matrix_factors(probe: Probe) -> set[int]:
    """Return the ids of parameters that are factors of matrix products or convolutions."""
    if probe.train_trace.logits.grad_fn is None:
        return set()
    factors = set()
    for node in all_nodes(probe.train_trace.logits.grad_fn):
        if any(part in type(node).__name__ for part in ("Mm", "mm", "Linear", "Convolution")):
            sources = [through_views(source) for source, _ in node.next_functions]
            factors |= {id(source.variable) for source in sources if hasattr(source, "variable")}
    return factors


def _stuck_at_zero(probe: Probe) -> Iterator[Verdict]:
    """Find zeros whose gradient is zero, and stays so after all other zeros have moved."""
    zero = {name: p for name, p in probe.trainable.items() if p.is_floating_point() and not p.any()}
    stuck = {name for name, p in zero.items() if p.dim() > 1 and p.numel() > 1}
    probe.snapshot.restore()
    moved = True
    while stuck and moved:
        trace = probe.run(training=True, gradient=True, restore=False)
        gradients = probe.gradients(probe.loss(trace.output), list(zero.values()))
        free = [name for name, gradient in zip(zero, gradients, strict=True) if gradient is None or gradient.any()]
        stuck -= set(free)
        moved = bool(free)
        with torch.no_grad():
            for name in free:
                zero.pop(name).data.normal_(0, 0.05, generator=torch.Generator().manual_seed(0))
    for name in (name for name in zero if name in stuck):
        yield Verdict(
            "constant_weights",
            "fail",
            name.rpartition(".")[0],
            f"all {zero[name].numel():,} values of {name} are zero, and so is their gradient: they stay zero",
            "Fill it with random numbers: nn.init.kaiming_normal_ or torch's default. In a product of two matrices, "
            "for example a low-rank update, only one may start at zero.",
        )


def wasteful(probe: Probe) -> Iterator[Verdict]:
    """Check for biases without effect, and for a layer that holds nearly all parameters."""
    trace = probe.train_trace
    outputs = {call.output_node: call for call in trace.calls if isinstance(call.module, (nn.Linear, _ConvNd))}
    inert: dict[str, int] = {}
    for call in trace.calls:
        previous = outputs.get(call.input_node) if call.input_node is not None else None
        if isinstance(call.module, _BatchNorm) and previous is not None and call.module.training:
            bias = previous.module.bias
            if isinstance(bias, Tensor) and bias.requires_grad:
                inert[previous.name] = bias.numel()
    if inert:
        yield Verdict(
            "wasteful",
            "warn",
            next(iter(inert)),
            f"batch normalization directly after {len(inert)} {'layer' if len(inert) == 1 else 'layers'} cancels the "
            f"bias, {sum(inert.values()):,} parameters without effect: {', '.join(list(inert)[:4])}",
            "Set bias=False there.",
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
                "Pool before it, for example with nn.AdaptiveAvgPool2d(1), which leaves one input per channel.",
            )
