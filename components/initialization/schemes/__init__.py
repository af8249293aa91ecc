"""First weights, one scheme per file: a file with ``fill(weight, rng)`` is an option.

A scheme for whole layers has ``fill_layer(layer, rng, network, sample)`` instead. ``finish(network, layers, sample)``
runs after all layers are filled.
"""

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.config import SCHEMES, InitializeConfig
from torchmill.components.initialization.name_patterns import matching
from torchmill.components.initialization.statistics import Sample, own_parameters

FILLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Layers that a scheme fills. Norms, embeddings and recurrent layers keep the weights of their class, unless a rule
names them."""

GAINS = {
    "linear": 1.0,
    "relu": 2**0.5,
    "leaky_relu": (2 / (1 + 0.01**2)) ** 0.5,
    "tanh": 5 / 3,
    "sigmoid": 1.0,
    "selu": 3 / 4,
}
"""Gains of torch.nn.init.calculate_gain."""


def fill(network: nn.Module, config: InitializeConfig, seed: int, sample: Sample) -> None:
    """Fill the weights of linear and convolution layers by scheme, and of any layer by the rules.

    Weights that the constructor froze stay, unless a rule names their layer: they are likely pretrained.

    Args:
        sample: a batch of inputs as the network takes them; some schemes measure the network on it.

    Raises:
        UserError: a rule fits no layer with a matrix, or one that its scheme is not for.
    """
    rng = torch.Generator().manual_seed(seed)
    ruled = _ruled(network, config.rules)
    filled = []
    for name, layer in network.named_modules():
        scheme = ruled.get(name, config.name if isinstance(layer, FILLED) else "none")
        module = SCHEMES.load(scheme)
        for_layer, for_weight = getattr(module, "fill_layer", None), getattr(module, "fill", None)
        if not for_layer and not for_weight:
            continue
        own = own_parameters(layer)
        frozen = [weight for weight in own.values() if not weight.requires_grad and name not in ruled]
        if not any(weight.dim() > 1 for weight in frozen):
            filled.append(name)
        if for_layer:
            _check_kind(scheme, name, layer)
        for key, weight in own.items():
            if any(weight is other for other in frozen):
                continue
            if for_layer:
                for_layer(layer, rng, network, sample) if key == "weight" else nn.init.zeros_(weight)
            elif for_weight and weight.dim() > 1:
                for_weight(weight, rng)
                _finish_weight(layer, weight, scheme, config.gain)
            elif config.bias is not None and "bias" in key:
                nn.init.constant_(weight, config.bias)
    if finish := getattr(SCHEMES.load(config.name), "finish", None):
        finish(network, [name for name in filled if name not in ruled], sample)


def _check_kind(scheme: str, name: str, layer: nn.Module) -> None:
    kinds = SCHEMES[scheme].constant("LAYERS", ())
    if kinds and not {base.__name__ for base in type(layer).__mro__} & set(kinds):
        raise UserError(
            f"--initialize.rules: {scheme} is for {' and '.join(kinds)}, and {name} is a {type(layer).__name__}."
        )


@torch.no_grad()
def _finish_weight(layer: nn.Module, weight: Tensor, scheme: str, gain: str) -> None:
    if gain != "scheme":
        weight.mul_(GAINS[gain] / GAINS[SCHEMES[scheme].constant("MADE_FOR", "linear")])
    if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
        weight[layer.padding_idx] = 0


def _ruled(network: nn.Module, rules: dict[str, str]) -> dict[str, str]:
    """Return the scheme of each layer that a rule names."""
    layers = {
        name: layer
        for name, layer in network.named_modules()
        if any(weight.dim() > 1 for weight in layer.parameters(recurse=False))
    }
    ruled = {}
    for pattern, scheme in rules.items():
        fitting = matching(pattern, layers)
        if not fitting:
            raise UserError(f"--initialize.rules: no layer fits '{pattern}'.", nearest(pattern, layers))
        ruled |= dict.fromkeys(fitting, scheme)
    return ruled
