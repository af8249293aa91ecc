"""Pretrained weights from a file or from torchvision, and frozen parameters."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError, nearest, shortened
from torchmill.components.initialization.config import TORCHVISION
from torchmill.components.initialization.name_patterns import matching

logger = logging.getLogger("torchmill")


def freeze(network: nn.Module, patterns: Sequence[str], anew: Collection[str] = ()) -> None:
    """Have parameters that fit a pattern stay as they are; ``backbone`` fits all but the last layer's.

    Args:
        anew: what the pretrained weights did not fit. ``backbone`` leaves these to be trained: frozen, they would stay
            the random numbers that they are.

    Raises:
        UserError: a pattern fits nothing or one of these, or nothing is left to train.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        if pattern == "backbone":
            last = [name for name, layer in network.named_modules() if next(layer.parameters(False), None) is not None]
            inner = [name for name in parameters if name.rpartition(".")[0] != last[-1]]
            chosen = [name for name in inner if name not in anew]
            if left := [name for name in inner if name in anew]:
                logger.info("freeze  backbone leaves out %s: begun anew, and trained", shortened(left) or "none")
        else:
            chosen = matching(pattern, parameters)
            if random := [name for name in chosen if name in anew]:
                raise UserError(
                    f"--model.freeze: '{pattern}' fits {shortened(random)}, which the pretrained weights do not: they "
                    "would stay at random numbers.",
                    "Leave them out; backbone does so by itself.",
                )
        if not chosen:
            raise UserError(f"--model.freeze: no parameter fits '{pattern}'.", nearest(pattern, parameters))
        for name in chosen:
            parameters[name].requires_grad_(False)
    if patterns and not any(parameter.requires_grad for parameter in parameters.values()):
        raise UserError(f"--model.freeze {','.join(patterns)} leaves nothing to train.", "Leave the last layer out.")


def load_pretrained(network: nn.Module, reference: str, weights: str) -> list[str]:
    """Give a network the pretrained weights that fit it; gives the names of those that keep their own.

    Of a first convolution over other channels the kernels' sum over colours is spread over the network's own.

    Raises:
        UserError: the weights cannot be had or read, or next to none of them fits.
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
    fitting = {}
    for key, value in state.items():
        held = own.get(key)
        if held is None:
            continue
        if held.dim() == 4 == value.dim() and held.shape[1] != value.shape[1] and held.shape[2:] == value.shape[2:]:
            value = value.sum(1, keepdim=True).expand(-1, held.shape[1], -1, -1) / held.shape[1]
        if held.shape == value.shape:
            fitting[key] = value
    if len(fitting) < len(own) / 2:
        raise UserError(
            f"{weights} does not fit {reference}: {len(fitting)} of its {len(own)} tensors are there in that shape.",
            f"It holds {', '.join(list(state)[:3])} …; the network {', '.join(list(own)[:3])} …",
        )
    network.load_state_dict(fitting, strict=False)
    left = [key for key in own if key not in fitting]
    logger.info(
        "weights  %d of %d tensors from %s; %s anew", len(fitting), len(own), weights, shortened(left) or "none"
    )
    return left


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no file {file}.", "Give --model.weights a .safetensors or .pth file.") from None
    except Exception as error:  # readers have no base of their errors
        raise UserError(f"{file} holds no weights: {' '.join(str(error).split())[:300]}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no state dict of tensors.", "Save one: torch.save(network.state_dict(), file).")
    return {key.removeprefix("module."): value for key, value in state.items()}
