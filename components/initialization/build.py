"""Build a network by name and give it its first weights."""

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.config import MODELS, TORCHVISION, InitializeConfig, ModelConfig
from torchmill.components.initialization.pretrained import freeze, load_pretrained
from torchmill.components.initialization.schemes import fill
from torchmill.components.initialization.standardized_model import blank
from torchmill.components.initialization.statistics import LayerStatistics, compare, measure
from torchmill.components.refs import DataRef
from torchmill.components.user_code.call import call
from torchmill.components.user_code.importing import first_hand, import_from

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


def build(reference: str, arguments: Mapping[str, object], data: DataRef) -> nn.Module:
    """Make the network that a reference names.

    Arguments that its constructor asks for and the data knows are filled in (``DataRef.arguments``).

    Raises:
        UserError: its file doesn't import, or its constructor fails or makes no module.
    """
    network = call(find(reference), arguments, reference, "--model.args", offered=data.arguments, offered_by=data.name)
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
        from torchmill.components.initialization.torchvision import classifier

        return classifier(name)
    if not place:
        module = MODELS.load(reference)
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
    ours = (Path(__file__).parents[1], Path(torch.__file__).parent)
    own = [(file, line) for file, line in lines if not any(place in Path(file).parents for place in ours)]
    return f", after {Path(own[-1][0]).name} line {own[-1][1]} had made it" if own else ""


def outputs_of(output: object) -> tuple[Any, ...]:
    """Give a network's output and, while it trains, its auxiliary outputs after it, as GoogLeNet and Inception do."""
    return tuple(one for one in output if one is not None) if isinstance(output, tuple | list) else (output,)


def _check_output(output: object, reference: str, data: DataRef) -> None:
    expected = (2, len(data.classes))
    if not isinstance(output, Tensor):
        raise UserError(f"{reference} returns a {type(output).__name__}; expected a tensor of shape {expected}.")
    if tuple(output.shape) != expected:
        raise UserError(
            f"{reference} gives shape {tuple(output.shape)} for 2 samples; "
            f"expected {expected}, {data.task_object.output_words} of {data.name}.",
            _remedy(output, expected, data),
        )


def _remedy(output: Tensor, expected: tuple[int, int], data: DataRef) -> str:
    if tuple(output.shape) == expected[:1]:
        return "Don't squeeze it: one row for each sample, one column for each target."
    if output.dim() > 2 and expected[1] in output.shape[1:]:
        over = "the sequence, e.g. a mean over its real tokens" if data.kind == "tokens" else "all other dimensions"
        return f"Pool over {over}: one row for each sample."
    return "Ask for num_classes in its constructor, or set its output by --model.args."
