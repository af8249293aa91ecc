"""Statistics of a network's layers: their weights, and their outputs on a batch."""

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchmill.components.wording import markdown_table

logger = logging.getLogger("torchmill")


Sample = Tensor | Callable[[nn.Module], object]
"""Inputs as the network takes them, or a function that runs the network on some."""


@dataclass(frozen=True)
class LayerMeasure:
    """Weights of a layer, and the spread of its output on a batch."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    """Shape of its largest parameter."""
    mean: float
    """Mean of all elements of its matrices."""
    std: float
    bias: float | None
    """Mean of its biases."""
    output_std: float | None
    """Deviation of its output; None if the layer isn't used, or returns no tensor."""


@dataclass(frozen=True)
class LayerStatistics:
    """A layer as its class made it, and at the start of training."""

    before: LayerMeasure
    after: LayerMeasure


def compare(before: Sequence[LayerMeasure], after: Sequence[LayerMeasure]) -> list[LayerStatistics]:
    """Pair the measures of each layer."""
    earlier = {measures.layer: measures for measures in before}
    return [LayerStatistics(earlier[later.layer], later) for later in after if later.layer in earlier]


@torch.no_grad()
def measure(network: nn.Module, sample: Sample) -> list[LayerMeasure]:
    """Measure the layers that have matrices, the used ones in the order of use, in evaluation mode.

    Modes and random state are restored. It never fails: if the network does, fewer layers have an output.
    """
    names = {
        layer: name
        for name, layer in network.named_modules()
        if any(weight.dim() > 1 for weight in own_parameters(layer).values())
    }
    with evaluation_mode(network), torch.random.fork_rng(devices=[]):
        outputs = _deviations(network, names, sample)
    layers = {name: layer for layer, name in names.items()}
    order = [*outputs, *(name for name in layers if name not in outputs)]
    return [_measured(name, layers[name], outputs.get(name)) for name in order]


def output_std(network: nn.Module, name: str, sample: Sample) -> float:
    """Return the deviation of a layer's output on the sample; 0 if the layer isn't used."""
    return _deviations(network, {network.get_submodule(name): name}, sample).get(name, 0.0)


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Generator[None]:
    """Set all layers to evaluation mode for the block, and restore their modes after it."""
    modes = {layer: layer.training for layer in network.modules()}
    try:
        for layer in modes:  # not by eval(), which a user may override
            layer.training = False
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def _deviations(network: nn.Module, layers: dict[nn.Module, str], sample: Sample) -> dict[str, float]:
    """Return the deviations of layers' outputs in one forward pass, in the order of use.

    If the pass fails, only the layers before the failure have one: other code reports the error.
    """
    deviations: dict[str, float] = {}

    def look(layer: nn.Module, _: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output  # a recurrent layer returns its state too
        if isinstance(first, Tensor) and first.is_floating_point() and not first.is_nested and first.numel() > 1:
            deviations.setdefault(layers[layer], first.std().item())

    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        sample(network) if callable(sample) else network(sample)
    except Exception as error:  # the user's forward can fail in any way
        logger.debug("measuring stops: %r", error)
    finally:
        for handle in handles:
            handle.remove()
    return deviations


def own_parameters(layer: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of the layer itself, even if its class overrides parameters()."""
    return {name: weight for name, weight in layer._parameters.items() if weight is not None}


def _measured(name: str, layer: nn.Module, output_std: float | None) -> LayerMeasure:
    own = own_parameters(layer)
    matrices = torch.cat([weight.detach().flatten() for weight in own.values() if weight.dim() > 1])
    biases = [weight.detach().flatten() for key, weight in own.items() if weight.dim() == 1 and "bias" in key]
    return LayerMeasure(
        layer=name,
        kind=type(layer).__name__,
        shape=tuple(max(own.values(), key=lambda weight: weight.numel()).shape),
        mean=matrices.mean().item(),
        std=matrices.std(correction=0).item(),
        bias=torch.cat(biases).mean().item() if biases else None,
        output_std=output_std,
    )


def as_table(statistics: Sequence[LayerStatistics]) -> str:
    """Write the layers as a table in Markdown: weights and outputs, before → after."""
    header = ["layer", "kind", "shape", "weights: deviation", "biases: mean", "output: deviation"]
    rows = []
    for layer in statistics:
        before, after = layer.before, layer.after
        changes = [_change(getattr(before, name), getattr(after, name)) for name in ("std", "bias", "output_std")]
        rows.append([after.layer or "the network", after.kind, "×".join(map(str, after.shape)), *changes])
    return "\n".join(markdown_table(header, "lllrrr", rows)) + "\n"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    return f"{after:.4g}" if f"{before:.4g}" == f"{after:.4g}" else f"{before:.4g} → {after:.4g}"
