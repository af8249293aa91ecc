"""Pretrained weights from a file or from torchvision, and frozen parameters."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.initialization.config import TORCHVISION
from torchmill.components.initialization.name_patterns import matching
from torchmill.components.initialization.uncompiled import plain_names

logger = logging.getLogger("torchmill")


def freeze(network: nn.Module, patterns: Sequence[str], untrained: Collection[str] = ()) -> None:
    """Freeze the parameters that match a pattern; ``backbone`` matches all but the last layer's.

    Args:
        network: network to freeze in place.
        patterns: patterns of parameter names, or ``backbone``.
        untrained: names of parameters without pretrained weights. ``backbone`` keeps them trainable: frozen, they
            would stay random.

    Raises:
        UserError: a pattern matches nothing or an untrained parameter, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        if pattern == "backbone":
            last = [name for name, layer in network.named_modules() if next(layer.parameters(False), None) is not None]
            inner = [name for name in parameters if name.rpartition(".")[0] != last[-1]]
            chosen = [name for name in inner if name not in untrained]
            if random := [name for name in inner if name in untrained]:
                logger.info("freeze  backbone without %s: not pretrained, stays trainable", shortened(random))
        else:
            chosen = matching(pattern, parameters)
            if random := [name for name in chosen if name in untrained]:
                raise UserError(
                    f"--model.freeze: '{pattern}' matches {shortened(random)}, which the pretrained weights do not "
                    "fit: frozen, they would stay random.",
                    "Exclude them from the pattern, or use backbone, which excludes them.",
                )
        if not chosen:
            raise UserError(f"--model.freeze: no parameter matches '{pattern}'.", nearest(pattern, parameters))
        for name in chosen:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"--model.freeze {','.join(patterns)} leaves nothing to train.", "Exclude the last layer.")


def load_pretrained(network: nn.Module, reference: str, weights: str) -> list[str]:
    """Load the pretrained weights that fit a network; return the names of the tensors that keep their first weights.

    A convolution over another number of channels gets the sum of the kernels over the channels, spread evenly.

    Raises:
        UserError: the weights cannot be fetched or read, or fewer than half of the network's tensors fit.
    """
    place, _, name = reference.rpartition(":")
    file = Path(weights).expanduser()
    if file.suffix in (".safetensors", ".pth", ".pt", ".bin") or file.is_file():
        state = _read_weights(file)
    elif place == TORCHVISION:
        from torchmill.components.initialization.torchvision import pretrained

        state = pretrained(name, weights)
    else:
        raise UserError(f"There is no file {weights}.", "Give --model.weights a .safetensors or .pth file.")
    own = network.state_dict()
    fitting = {key: _spread_channels(value, own[key]) for key, value in state.items() if key in own}
    fitting = {key: value for key, value in fitting.items() if value.shape == own[key].shape}
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{weights} does not fit {reference}: only {len(fitting)} of the network's {len(own)} tensors are there in "
            "the same shape.",
            f"The file has {', '.join(list(state)[:3])} …; the network has {', '.join(list(own)[:3])} …",
        )
    network.load_state_dict(fitting, strict=False)
    untrained = [key for key in own if key not in fitting]
    logger.info(
        "weights  %d of %d tensors from %s; not %s", len(fitting), len(own), weights, shortened(untrained) or "none"
    )
    return untrained


def _spread_channels(weight: Tensor, target: Tensor) -> Tensor:
    """Adapt a convolution's pretrained weight to the input channels of ``target``, if only these differ."""
    if weight.dim() != 4 or target.dim() != 4 or weight.shape[2:] != target.shape[2:]:
        return weight
    channels = target.shape[1]
    if weight.shape[1] == channels:
        return weight
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}.", "Give --model.weights a .safetensors or .pth file.") from None
    except Exception as error:  # the readers' errors have no common base class
        raise UserError(f"{file} holds no weights: {' '.join(str(error).split())[:300]}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict of tensors.", "Save one: torch.save(network.state_dict(), file).")
    return plain_names({key.removeprefix("module."): value for key, value in state.items()})


def frozen_norms(network: nn.Module) -> list[nn.Module]:
    """Return the batch norms whose weights are frozen: their statistics must stay, too, or their outputs would move."""
    return [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and (weights := list(layer.parameters(recurse=False)))
        and not any(weight.requires_grad for weight in weights)
    ]
