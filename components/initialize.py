"""Build a network by name and give it its first weights."""

import importlib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.config import TORCHVISION, InitializeConfig, ModelConfig
from torchmill.components.errors import UserError, nearest
from torchmill.components.files import write_atomically
from torchmill.components.first_weights import LayerStatistics, compare, fill, measure
from torchmill.components.patterns import matching
from torchmill.components.raw_model import blank
from torchmill.components.refs import DataRef, FileRef, NetworkRef
from torchmill.components.user_code import first_hand, import_from, missing_module

logger = logging.getLogger("torchmill")


def initialize(
    model: ModelConfig, config: InitializeConfig, data: DataRef, seed: int, sample: Tensor | None = None
) -> tuple[nn.Module, list[LayerStatistics]]:
    """Build a network for a data set and fill its weights; the same seed gives the same weights.

    Pretrained weights take the place of those they fit. Torch's global random state is left as it was.

    Args:
        sample: inputs as the network takes them, for LSUV and for what each layer gives; blank ones where there are
            none.

    Returns:
        The network; and statistics of its layers before, as its class made them, and after.

    Raises:
        UserError: the network can't be built, or doesn't take the data's inputs and give an output per class; a rule
            or a pattern fits nothing; the pretrained weights don't fit; or what they don't fit is to be frozen.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build(model.name, model.args, data)
        _try_on_these_sizes(network, model, data)  # first, since it gives lazy layers their shapes
        seen = blank(data) if sample is None else sample
        before = measure(network, seen)
        fill(network, config, seed, seen)
        anew = load_pretrained(network, model.name, model.weights) if model.weights else []
        freeze(network, model.freeze, anew)
        if model.freeze and not model.weights and config.name != "none":
            logger.warning(
                "freeze  without --model.weights, what stays as it is are first weights by %s; --initialize none keeps "
                "those that the network's class made",
                config.name,
            )
        return network, compare(before, measure(network, seen))


def _try_on_these_sizes(network: nn.Module, model: ModelConfig, data: DataRef) -> None:
    """Try a network, and say what to do where it was told one size of images that have two."""
    try:
        try_on(network, model.name, data)
    except UserError as error:
        asked = inspect.signature(find(model.name)).parameters
        if data.kind != "images" or data.shape[1] == data.shape[2] or "image_size" not in {*asked} - {*model.args}:
            raise
        raise UserError(
            str(error),
            f"It asked for image_size and got their height, {data.shape[1]}. Have it ask for image_height and "
            "image_width, or make them square; those of a folder by "
            f"--data.args '{{\"image_size\": {min(data.shape[1:])}}}'.",
        ) from error


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
                logger.info("freeze  backbone leaves out %s: begun anew, and trained", _some(left))
        else:
            chosen = matching(pattern, parameters)
            if random := [name for name in chosen if name in anew]:
                raise UserError(
                    f"--model.freeze: '{pattern}' fits {_some(random)}, which the pretrained weights do not: they "
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
        from torchmill.components.torchvision_networks import pretrained

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
    logger.info("weights  %d of %d tensors from %s; %s anew", len(fitting), len(own), weights, _some(left))
    return left


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "none"


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


def build(reference: str, arguments: Mapping[str, object], data: DataRef) -> nn.Module:
    """Make the network that a reference names.

    Arguments that its constructor asks for and the data knows are filled in (``DataRef.arguments``).

    Raises:
        UserError: its file doesn't import, or its constructor fails or makes no module.
    """
    factory = find(reference)
    try:
        accepted = inspect.signature(factory).parameters
    except ValueError:  # builtins and the like tell nothing about what they take
        accepted = {}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    for name in arguments:
        if name not in accepted and not takes_any:
            raise UserError(f"{reference} takes no argument '{name}'.", nearest(name, accepted) or "It takes none.")
    filled = {name: value for name, value in data.arguments.items() if name in accepted} | dict(arguments)
    missing = [
        name
        for name, parameter in accepted.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in filled
    ]
    if missing:
        raise UserError(
            f"{reference} needs {' and '.join(missing)}, which {data.name} does not know.",
            f"Give it: --model.args '{{\"{missing[0]}\": …}}'. The data knows {', '.join(data.arguments)}.",
        )
    try:
        network = factory(**filled)
    except UserError:
        raise
    except Exception as error:  # the user's constructor can fail in any way
        shown = ", ".join(f"{name}={value!r}" for name, value in filled.items())
        remedy = missing_module(error)
        if takes_any and not remedy:
            remedy = (
                f"What the data knows ({', '.join(data.arguments)}) is given by name and not to **: name what it needs "
                "in its signature, or give it by --model.args."
            )
        raise UserError(f"{reference}({shown}) fails: {first_hand(error)}", remedy) from error
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
    if place == TORCHVISION:
        from torchmill.components.torchvision_networks import classifier

        return classifier(name)
    if not place:
        module = importlib.import_module(f"torchmill.components.models.{reference}")
        wanted = reference.replace("_", "")
        return next(
            value
            for key, value in vars(module).items()
            if key.lower() == wanted and inspect.isclass(value) and value.__module__ == module.__name__
        )
    module = import_from(place)
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


def try_on(network: nn.Module, reference: str, data: DataRef) -> None:
    """Run two blank inputs through the network, as evaluation and as training do, and look at what comes out.

    Buffers, gradients and modes are left as they were.

    Raises:
        UserError: it fails, and in which layer; or it gives anything but an output per class, label or target.
    """
    inputs = blank(data)
    inside: list[tuple[str, nn.Module]] = []
    handles = []
    for name, layer in network.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(lambda module, _, name=name: inside.append((name, module))))
            handles.append(layer.register_forward_hook(lambda *_: inside.pop() and None))
    modes = {layer: layer.training for layer in network.modules()}
    try:
        _check_output(network.eval()(inputs), reference, data)
        buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
        with torch.enable_grad():  # whoever calls may have turned it off
            outputs = outputs_of(network.train()(inputs))
            for output in outputs:
                _check_output(output, reference, data)
            sum(output.sum() for output in outputs).backward()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    except UserError:
        raise
    except Exception as error:  # the user's forward can fail in any way
        if "modified by an inplace operation" in str(error):
            raise UserError(
                f"{reference} fails in backward: a value that is needed there was changed in place"
                f"{_overwritten(network, inputs)}: {first_hand(error)[:200]} …",
                "Make a new one: h = h + 1 and not h += 1, torch.relu(h) and not h.relu_(), inplace=False.",
            ) from error
        layer = f" in its layer {inside[-1][0]}: {inside[-1][1]}" if inside else ""
        raise UserError(
            f"{reference} fails on {data.kind} of shape {tuple(inputs.shape)}{layer}: {first_hand(error)}",
            f"{data.name} has {SHAPES[data.kind]} = {data.shape}."
            + " Take in_channels in the constructor: it is filled in." * bool(CHANNELS.search(str(error))),
        ) from error
    finally:
        network.zero_grad(set_to_none=True)
        for handle in handles:
            handle.remove()
        for layer, mode in modes.items():
            layer.training = mode


CHANNELS = re.compile(r"to have \d+ channels, but got \d+ channels")
SHAPES = {
    "images": "images of (channels, height, width)",
    "tokens": "token ids (int64), sequences of up to (length,)",
    "numbers": "samples of (features, …)",
}


def _overwritten(network: nn.Module, inputs: Tensor) -> str:
    """The line of forward that made the value which backward misses, where autograd knows it."""
    with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("always")
        try:
            with torch.enable_grad():
                sum(output.sum() for output in outputs_of(network(inputs))).backward()
        except Exception:  # it did so before; this time for its place
            pass
    lines = re.findall(r'File "([^"]+)", line (\d+)', " ".join(str(warning.message) for warning in told))
    ours = (Path(__file__).parent, Path(torch.__file__).parent)
    own = [(file, line) for file, line in lines if not any(place in Path(file).parents for place in ours)]
    return f", after {Path(own[-1][0]).name} line {own[-1][1]} had made it" if own else ""


def outputs_of(output: object) -> tuple[Any, ...]:
    """Give a network's output and, while it trains, its auxiliary outputs after it, as GoogLeNet and Inception do."""
    return tuple(one for one in output if one is not None) if isinstance(output, tuple | list) else (output,)


def _check_output(output: object, reference: str, data: DataRef) -> None:
    expected = (2, len(data.classes))
    each = {"classification": "a logit for each class", "multilabel": "a logit for each label"}
    if not isinstance(output, Tensor):
        raise UserError(f"{reference} returns a {type(output).__name__}; expected a tensor of shape {expected}.")
    if tuple(output.shape) != expected:
        raise UserError(
            f"{reference} gives shape {tuple(output.shape)} for 2 samples; "
            f"expected {expected}, {each.get(data.task, 'a number for each target')} of {data.name}.",
            _remedy(output, expected, data),
        )


def _remedy(output: Tensor, expected: tuple[int, int], data: DataRef) -> str:
    if tuple(output.shape) == expected[:1]:
        return "Don't squeeze it: one row for each sample, one column for each target."
    if output.dim() > 2 and expected[1] in output.shape[1:]:
        over = "the sequence, e.g. a mean over its real tokens" if data.kind == "tokens" else "all other dimensions"
        return f"Pool over {over}: one row for each sample."
    return "Ask for num_classes in its constructor, or set its output by --model.args."


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
    for name in network.frozen:
        rebuilt.get_parameter(name).requires_grad_(False)
    try:
        load_model(rebuilt, str(weights.path))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{weights.path} does not fit {network.reference}: {' '.join(str(error).split())}") from None
    return rebuilt
