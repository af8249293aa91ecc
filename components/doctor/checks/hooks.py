"""Check that no backward hook reverses a gradient."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from torchmill.components.doctor.probe import Probe
from torchmill.components.doctor.verdict import Verdict


def reversing_hooks(probe: Probe) -> Iterator[Verdict]:
    """Compare gradients with and without backward hooks: these may scale and mask, but not lead uphill."""
    layers = [module for module in probe.network.modules() if module._backward_hooks]
    hooked = [parameter for parameter in probe.trainable.values() if parameter._backward_hooks]
    registries: list[Any] = [owner._backward_hooks for owner in (*layers, *hooked)]
    if not registries:
        return
    gradients_with = _gradients(probe)
    contents = [list(registry.items()) for registry in registries]
    probe.snapshot.restore()
    try:
        for registry in registries:
            registry.clear()
        gradients_without = _gradients(probe, restore=False)
    finally:
        for registry, items in zip(registries, contents, strict=True):
            registry.update(items)
    for name, hooked_gradient, gradient in zip(probe.trainable, gradients_with, gradients_without, strict=True):
        if hooked_gradient is None or gradient is None or gradient.is_complex():
            continue
        product = (hooked_gradient * gradient).sum().item()
        cosine = product / max((hooked_gradient.norm() * gradient.norm()).item(), 1e-30)
        if cosine < -0.1:
            yield Verdict(
                "hooks",
                "warn",
                name.rpartition(".")[0],
                f"with {sum(map(len, contents))} backward hooks, the gradient of {name} has a cosine of {cosine:.2f} "
                "with the loss's own gradient: it leads uphill",
                "Keep the hook if the reversal is deliberate; otherwise return the gradient with its own sign.",
            )
            return


def _gradients(probe: Probe, restore: bool = True) -> list[Tensor | None]:
    """Compute the gradients of all trainable parameters in training mode, without dropout."""
    trace = probe.run(training=True, gradient=True, in_eval=(_DropoutNd,), restore=restore)
    return probe.gradients(probe.loss(trace.output), list(probe.trainable.values()))
