"""Build a network by name and give it its first weights."""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from components.config import Scheme, source_file
from components.errors import UserError, nearest
from components.files import write_atomically
from components.refs import DataRef, FileRef, NetworkRef

# What a scheme fills: matrices and convolution kernels. Norm layers keep their ones and zeros,
# embeddings and recurrent layers their own customs.
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


def initialize(reference: str, arguments: Mapping[str, object], scheme: Scheme, data: DataRef, seed: int) -> nn.Module:
    """Build a network for a data set and fill its weights; the same seed gives the same weights.

    Torch's global random state is left as it was.

    Raises:
        UserError: the network can't be built, or doesn't take the data's images and give a logit per class.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(reference, arguments, data)
        try_on(network, reference, data)  # first, since it gives lazy layers their shapes
        fill(network, scheme, seed)
    return network


def fill(network: nn.Module, scheme: Scheme, seed: int) -> None:
    """Fill the weights of linear and convolution layers by scheme and set their biases to zero."""
    if scheme == "none":
        return
    rng = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, FILLED):
            SCHEMES[scheme](layer.weight, rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def build(reference: str, arguments: Mapping[str, object], data: DataRef) -> nn.Module:
    """Make the network that a reference names.

    Arguments that its constructor asks for and the data knows are filled in: ``num_classes``,
    ``in_channels``, ``image_size`` (an int).

    Raises:
        UserError: its file doesn't import, or its constructor fails or makes no module.
    """
    factory = find(reference)
    known = {"num_classes": len(data.classes), "in_channels": data.channels, "image_size": data.height}
    try:
        accepted = inspect.signature(factory).parameters
    except ValueError:  # builtins and the like tell nothing about what they take
        accepted = {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for name in arguments:
        if name not in accepted and not takes_any:
            raise UserError(f"{reference} takes no argument '{name}'.", nearest(name, accepted) or "It takes none.")
    filled = {name: value for name, value in known.items() if name in accepted} | dict(arguments)
    try:
        network = factory(**filled)
    except Exception as error:  # the user's constructor can fail in any way
        shown = ", ".join(f"{name}={value!r}" for name, value in filled.items())
        raise UserError(f"{reference}({shown}) fails: {_first_hand(error)}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{reference} makes a {type(network).__name__}, not a torch.nn.Module.")
    if next(network.parameters(), None) is None:
        raise UserError(
            f"{reference} has no parameters to train.", "Are its layers kept in a plain list? Use nn.ModuleList."
        )
    return network


def find(reference: str) -> Callable[..., object]:
    """Give the class or factory that a reference names.

    Raises:
        UserError: its module doesn't import or has nothing like it.
    """
    place, _, name = reference.rpartition(":")
    if not place:
        module = importlib.import_module(f"components.models.{reference}")
        wanted = reference.replace("_", "")
        return next(
            value
            for key, value in vars(module).items()
            if key.lower() == wanted and inspect.isclass(value) and value.__module__ == module.__name__
        )
    module = _import(place)
    found = getattr(module, name, None)
    if found is None:
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise UserError(f"{place} has no '{name}'.", nearest(name, classes))
    if inspect.isclass(found) and not issubclass(found, nn.Module):
        raise UserError(f"{reference} is a class but not a torch.nn.Module.", "Derive it from torch.nn.Module.")
    if not callable(found):
        raise UserError(f"{reference} is a {type(found).__name__}, neither a class nor a function.")
    return found


def _import(place: str) -> ModuleType:
    try:
        file = source_file(place)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        if str(file.parent) not in sys.path:
            sys.path.insert(0, str(file.parent))  # so that it finds the modules beside it
        name = "torchmill_user." + "".join(letter if letter.isalnum() else "_" for letter in str(file.with_suffix("")))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and inspect look their module up
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # the user's code can fail in any way, and may read sys.argv
        raise UserError(f"{place} does not import: {_first_hand(error)}") from error


def try_on(network: nn.Module, reference: str, data: DataRef) -> None:
    """Run two blank images through the network, as evaluation and as training do, and look at what comes out.

    Buffers, gradients and modes are left as they were.

    Raises:
        UserError: it fails, and in which layer; or it gives anything but a logit per class.
    """
    shape = (2, *data.image_shape)
    inside: list[tuple[str, nn.Module]] = []
    handles = []
    for name, layer in network.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(lambda module, _, name=name: inside.append((name, module))))
            handles.append(layer.register_forward_hook(lambda *_: inside.pop() and None))
    modes = {layer: layer.training for layer in network.modules()}
    try:
        output = network.eval()(torch.zeros(shape))
        _check_output(output, reference, data)
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        with torch.enable_grad():  # whoever calls may have turned it off
            network.train()(torch.zeros(shape)).sum().backward()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    except UserError:
        raise
    except Exception as error:  # the user's forward can fail in any way
        layer = f" in its layer {inside[-1][0]}: {inside[-1][1]}" if inside else ""
        raise UserError(
            f"{reference} fails on images of shape {shape}{layer}: {_first_hand(error)}",
            f"An image of {data.name} has (channels, height, width) = {data.image_shape}.",
        ) from error
    finally:
        network.zero_grad(set_to_none=True)
        for handle in handles:
            handle.remove()
        for layer, mode in modes.items():
            layer.training = mode


def _check_output(output: object, reference: str, data: DataRef) -> None:
    expected = (2, len(data.classes))
    if not isinstance(output, Tensor):
        raise UserError(f"{reference} returns a {type(output).__name__}; expected a tensor of shape {expected}.")
    if tuple(output.shape) != expected:
        raise UserError(
            f"{reference} gives shape {tuple(output.shape)} for 2 images; "
            f"expected {expected}, a logit for each class of {data.name}.",
            "Ask for num_classes in its constructor, or set its output by --model.args.",
        )


def _first_hand(error: BaseException) -> str:
    """The error in one line, with the user's own place in the code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name} line {error.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"


def _is_users(filename: str) -> bool:
    return not (
        filename.startswith("<") or "site-packages" in filename or Path(__file__).parent in Path(filename).parents
    )


def save_weights(network: nn.Module, path: Path) -> FileRef:
    """Write the weights as safetensors, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    def write(partial: Path) -> None:
        try:
            save_model(network, str(partial))
        except SafetensorError as error:  # "I/O error: No space left on device (os error 28)"
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else error) from error

    write_atomically(path, write)
    return FileRef.of(path)


def restore(network: NetworkRef, weights: FileRef, data: DataRef) -> nn.Module:
    """Build a network again and give it weights, on the CPU.

    Raises:
        UserError: the file is not what it was, or doesn't fit the network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if not weights.path.is_file() or FileRef.of(weights.path) != weights:
        raise UserError(f"{weights.path} is gone or changed since it was written.", "Run the training again.")
    with torch.random.fork_rng(devices=[]):
        rebuilt = build(network.reference, network.arguments, data)
        try_on(rebuilt, network.reference, data)  # gives lazy layers their shapes
    try:
        load_model(rebuilt, str(weights.path))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights.path} does not fit {network.reference}: {' '.join(str(error).split())}") from None
    return rebuilt
