"""Check that gradients reach most units of each layer."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.trace import Call, Observer, Raised
from torchmill.components.doctor.verdict import Verdict

# Layers with one row of weights per unit.
UNITS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Fewest units of a layer to examine, share of dead units to report, and their distance from zero relative to the
# others'. In a deep network, similar samples shut about half of the ReLUs by chance, but no further from zero.
ENOUGH, MANY, FAR_BELOW = 16, 0.5, 5.0


def dead_units(probe: Probe) -> Iterator[Verdict]:
    """Check that not half of a layer's units are dead or unused."""
    levels: dict[str, Tensor] = {}

    def record(call: Call, entering: bool) -> None:
        if (
            not entering
            and isinstance(call.module, UNITS)
            and isinstance(call.output, Tensor)
            and call.output.dim() > 1
        ):
            axis = 1 if isinstance(call.module, _ConvNd) else -1
            levels[call.name] = call.output.detach().abs().transpose(0, axis).flatten(1).mean(1)

    dead = _without_gradient(probe, record)
    if not dead:
        return
    probe.snapshot.restore()
    with torch.no_grad():
        for name in dead:
            for parameter in probe.network.get_submodule(name).parameters(recurse=False):
                parameter.mul_(-0.1)  # opens a ReLU that was shut for all samples
    try:
        still_dead = _without_gradient(probe, restore=False)
    except Raised:
        return  # weights that we made up prove nothing
    for name, units in dead.items():
        unused = units & still_dead[name] if name in still_dead else torch.zeros_like(units)
        mostly_unused = bool(unused.float().mean() >= MANY)
        if not mostly_unused and not _level_ratio(levels, name, units) > FAR_BELOW:
            continue
        cause = "even with other weights" if mostly_unused else "their outputs lie far below zero"
        yield Verdict(
            "units",
            "warn",
            name,
            f"{int(units.sum())} of {len(units)} units get a gradient of exactly 0 for {len(probe.inputs)} samples; "
            f"{cause}",
            "Use all of its units in the next layer, or make it smaller."
            if mostly_unused
            else "Check its first weights for biases far below zero.",
        )
        return


def _level_ratio(levels: dict[str, Tensor], name: str, units: Tensor) -> float:
    """Return the distance from zero of a layer's dead units relative to that of the others; 0 if unknown."""
    if name not in levels or len(levels[name]) != len(units):
        return 0.0
    return (levels[name][units].median() / levels[name][~units].median().clamp(min=1e-30)).item()


def _without_gradient(probe: Probe, observer: Observer | None = None, restore: bool = True) -> dict[str, Tensor]:
    """Return masks of the units without a gradient, for layers in which these are many but not all."""
    layers = {
        f"{name}.weight".lstrip("."): (name, module)
        for name, module in probe.network.named_modules()
        if isinstance(module, UNITS) and f"{name}.weight".lstrip(".") in probe.trainable
    }
    trace = probe.run(training=True, gradient=True, in_eval=(_DropoutNd,), observer=observer, restore=restore)
    gradients = probe.gradients(probe.loss(trace.output), [probe.trainable[weight] for weight in layers])
    masks = {}
    for (name, _), gradient in zip(layers.values(), gradients, strict=True):
        if gradient is not None and len(gradient) >= ENOUGH:
            units = ~gradient.flatten(1).any(1)
            if MANY <= units.float().mean() < 1:
                masks[name] = units
    return masks
