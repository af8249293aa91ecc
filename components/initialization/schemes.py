"""First weights: schemes over kinds of layers, rules by name, LSUV; and what each layer makes of a batch."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.config import InitializeConfig
from torchmill.components.initialization.name_patterns import matching

logger = logging.getLogger("torchmill")

# What a scheme fills: matrices and convolution kernels. Norm layers keep their ones and zeros,
# embeddings and recurrent layers their own customs, unless a rule names them.
FILLED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

SCHEMES: dict[str, Callable[[Tensor, torch.Generator], object]] = {
    # Glorot & Bengio 2010: variance 2 / (fan_in + fan_out)
    "xavier_normal": lambda weight, rng: nn.init.xavier_normal_(weight, generator=rng),
    "xavier_uniform": lambda weight, rng: nn.init.xavier_uniform_(weight, generator=rng),
    # He et al. 2015: variance 2 / fan_in, made for ReLU
    "kaiming_normal": lambda weight, rng: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=rng),
    "kaiming_uniform": lambda weight, rng: nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=rng),
    # Saxe et al. 2014
    "orthogonal": lambda weight, rng: nn.init.orthogonal_(weight, generator=rng),
    # BERT's and ViT's: normal of deviation 0.02, cut at two deviations
    "trunc_normal": lambda weight, rng: nn.init.trunc_normal_(weight, std=0.02, a=-0.04, b=0.04, generator=rng),
}
# As torch.nn.init.calculate_gain has them.
GAINS = {
    "linear": 1.0,
    "relu": 2**0.5,
    "leaky_relu": (2 / (1 + 0.01**2)) ** 0.5,
    "tanh": 5 / 3,
    "sigmoid": 1.0,
    "selu": 3 / 4,
}
MADE_FOR_RELU = ("kaiming_normal", "kaiming_uniform")

WHITENING_EPSILON = 5e-4
"""Of the largest variance: directions with hardly any would otherwise be blown up noise."""
LSUV_ROUNDS, LSUV_TOLERANCE = 10, 0.05


def fill(network: nn.Module, config: InitializeConfig, seed: int, sample: Tensor) -> None:
    """Fill the weights of linear and convolution layers by scheme, and of any layer by the rules.

    What the constructor froze is left as it is, unless a rule names its layer: it was frozen with weights that count.

    Args:
        sample: a batch of inputs as the network takes them, by which LSUV scales.

    Raises:
        UserError: a rule fits no layer with a matrix, or one that its scheme is not for.
    """
    rng = torch.Generator().manual_seed(seed)
    ruled = _ruled(network, config.rules)
    filled = []
    for name, layer in network.named_modules():
        scheme = ruled.get(name, config.name if isinstance(layer, FILLED) else "none")
        if scheme == "none":
            continue
        kept = [weight for weight in _own(layer).values() if not weight.requires_grad and name not in ruled]
        if not any(weight.dim() > 1 for weight in kept):
            filled.append(name)
        for own, weight in _own(layer).items():
            if any(weight is one for one in kept):
                continue
            if scheme in ("whitening", "dirac"):
                if not isinstance(layer, nn.Conv2d):
                    kind = type(layer).__name__
                    raise UserError(f"--initialize.rules: {scheme} is for Conv2d, and {name} is a {kind}.")
                if own == "weight":
                    whiten(network, layer, sample) if scheme == "whitening" else hand_on(layer, rng)
                else:
                    nn.init.zeros_(weight)
            elif weight.dim() > 1:
                _fill_one(layer, weight, scheme, config.gain, rng)
            elif config.bias is not None and "bias" in own:
                nn.init.constant_(weight, config.bias)
    if config.name == "lsuv":
        scale_to_unit_variance(network, [name for name in filled if name not in ruled], sample)


def _fill_one(layer: nn.Module, weight: Tensor, scheme: str, gain: str, rng: torch.Generator) -> None:
    SCHEMES["orthogonal" if scheme == "lsuv" else scheme](weight, rng)
    if gain != "scheme":
        made_for = "relu" if scheme in MADE_FOR_RELU else "linear"
        with torch.no_grad():
            weight.mul_(GAINS[gain] / GAINS[made_for])
    if isinstance(layer, nn.Embedding) and layer.padding_idx is not None:
        with torch.no_grad():
            weight[layer.padding_idx] = 0


@torch.no_grad()
def hand_on(layer: nn.Conv2d, rng: torch.Generator) -> None:
    """Have a convolution give its inputs as its first outputs, and what chance wills as the others."""
    nn.init.kaiming_normal_(layer.weight, generator=rng)
    nn.init.dirac_(layer.weight[: layer.weight.shape[1]])


@torch.no_grad()
def whiten(network: nn.Module, layer: nn.Conv2d, sample: Tensor) -> None:
    """Have a convolution give the directions that patches of its inputs vary in, each with variance 1 and both signs.

    Those with the largest variance come first (Coates & Ng 2012; Page 2019, "How to train your ResNet").

    Args:
        layer: with no more than twice as many outputs as a patch has elements.

    Raises:
        UserError: it has more outputs, or is not used.
    """
    outputs, elements = layer.out_channels, layer.weight[0].numel()
    if outputs > 2 * elements or layer.groups > 1:
        raise UserError(
            f"--initialize.rules: whitening makes {2 * elements} outputs of patches of {elements} elements, "
            f"not {outputs}{' in groups' * (layer.groups > 1)}."
        )
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    try:
        measure(network, sample)
    finally:
        handle.remove()
    if not seen:
        raise UserError("--initialize.rules: whitening looks at what a layer takes, and this one is not used.")
    patches = nn.functional.unfold(seen[0].float(), layer.kernel_size, stride=layer.stride).transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(patches.double().cov())  # the least variance first
    scaled = directions.T / (variances[:, None] + WHITENING_EPSILON * variances[-1]).sqrt()
    both = torch.stack([scaled, -scaled], 1).flatten(0, 1).flip(0)[:outputs]
    layer.weight.copy_(both.view_as(layer.weight))


def _ruled(network: nn.Module, rules: dict[str, str]) -> dict[str, str]:
    """Give the scheme of each layer that a rule names."""
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


@torch.no_grad()
def scale_to_unit_variance(network: nn.Module, layers: Sequence[str], sample: Tensor) -> None:
    """Scale each layer's weights so that its output on the sample has variance 1 (Mishkin & Matas 2015).

    In the order in which they are used; one that gives nothing but zeros, or isn't used, stays as it is.
    """
    modes = {layer: layer.training for layer in network.modules()}
    network.eval()
    try:
        order = [one.layer for one in measure(network, sample) if one.output_std is not None]
        for name in (name for name in order if name in set(layers)):
            weight = network.get_submodule(name).get_parameter("weight")
            for _ in range(LSUV_ROUNDS):
                deviation = _output_std(network, name, sample)
                if not deviation or abs(deviation**2 - 1) < LSUV_TOLERANCE:
                    break
                weight.div_(deviation)
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def _output_std(network: nn.Module, name: str, sample: Tensor) -> float:
    return _deviations(network, {network.get_submodule(name): name}, sample).get(name, 0.0)


def _deviations(network: nn.Module, layers: dict[nn.Module, str], sample: Tensor) -> dict[str, float]:
    """Deviations of layers' outputs in one forward, in the order of use.

    Where the forward fails, of the layers that it came to: what is wrong with it is not for statistics to say.
    """
    found: dict[str, float] = {}

    def look(layer: nn.Module, _: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output  # a recurrent layer gives its state, too
        if isinstance(first, Tensor) and first.is_floating_point() and not first.is_nested and first.numel() > 1:
            found.setdefault(layers[layer], first.std().item())

    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        network(sample)
    except Exception as error:  # the user's forward can fail in any way
        logger.debug("measuring stops: %r", error)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _own(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters, also where its class has a parameters() of its own."""
    return {name: weight for name, weight in layer._parameters.items() if weight is not None}


@dataclass(frozen=True)
class LayerMeasure:
    """A layer with weights of its own, and what it gives for a batch."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    """Of its largest parameter."""
    mean: float
    """Of all its matrices' elements."""
    std: float
    bias: float | None
    """Mean of its biases."""
    output_std: float | None
    """None where the layer isn't used, or gives no tensor."""


@dataclass(frozen=True)
class LayerStatistics:
    """A layer as its class made it, and as training begins with it."""

    before: LayerMeasure
    after: LayerMeasure


def compare(before: Sequence[LayerMeasure], after: Sequence[LayerMeasure]) -> list[LayerStatistics]:
    """Put a network's layers beside themselves."""
    earlier = {one.layer: one for one in before}
    return [LayerStatistics(earlier[one.layer], one) for one in after if one.layer in earlier]


@torch.no_grad()
def measure(network: nn.Module, sample: Tensor) -> list[LayerMeasure]:
    """Look at the layers with matrices, those that are used in the order of their use; in evaluation mode.

    Modes and random state are left as they were. It never fails: where the network does, the statistics are fewer.
    """
    weighted = {
        layer: name
        for name, layer in network.named_modules()
        if any(weight.dim() > 1 for weight in _own(layer).values())
    }
    modes = {layer: layer.training for layer in network.modules()}
    try:
        with torch.random.fork_rng(devices=[]):
            for layer in modes:  # not by eval(), which may be the user's own
                layer.training = False
            outputs = _deviations(network, weighted, sample)
    finally:
        for layer, mode in modes.items():
            layer.training = mode
    layers = {name: layer for layer, name in weighted.items()}
    order = [*outputs, *(name for name in layers if name not in outputs)]
    return [_measured(name, layers[name], outputs.get(name)) for name in order]


def _measured(name: str, layer: nn.Module, output_std: float | None) -> LayerMeasure:
    own = _own(layer)
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
    """The layers as a table in Markdown: weights and outputs, before → after."""
    lines = [
        "| layer | kind | shape | weights: deviation | biases: mean | output: deviation |",
        "|---|---|---|---:|---:|---:|",
    ]
    for one in statistics:
        before, after = one.before, one.after
        shape = "×".join(map(str, after.shape))
        lines.append(
            f"| {after.layer or 'the network'} | {after.kind} | {shape} | {_change(before.std, after.std)} "
            f"| {_change(before.bias, after.bias)} | {_change(before.output_std, after.output_std)} |"
        )
    return "\n".join(lines) + "\n"


def _change(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    return f"{after:.4g}" if f"{before:.4g}" == f"{after:.4g}" else f"{before:.4g} → {after:.4g}"
