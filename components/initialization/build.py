"""Construction of a network by its reference, its first weights, and a first run."""

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmill.components.data.named_fields import facts
from torchmill.components.errors import UserError, nearest
from torchmill.components.initialization.config import MODELS, TORCHVISION, InitializeConfig, ModelConfig
from torchmill.components.initialization.pretrained import freeze, load_pretrained
from torchmill.components.initialization.schemes import fill
from torchmill.components.initialization.standardized_model import blank
from torchmill.components.initialization.statistics import LayerStatistics, compare, measure
from torchmill.components.initialization.task_trial import try_task
from torchmill.components.initialization.uncompiled import uncompiled
from torchmill.components.refs import DataRef
from torchmill.components.user_code.call import call
from torchmill.components.user_code.importing import first_hand, import_from

logger = logging.getLogger("torchmill")


def initialize(
    model: ModelConfig, config: InitializeConfig, data: DataRef, seed: int, sample: Tensor | None = None
) -> tuple[nn.Module, list[LayerStatistics]]:
    """Build a network for a data set and fill its weights; the same seed gives the same weights.

    Pretrained weights replace the first weights that they fit. Does not change torch's global random state.

    Args:
        model: reference, constructor arguments, pretrained weights and frozen parameters of the network.
        config: scheme of the first weights; auto keeps those of a network that isn't built-in.
        data: data set that the network must accept.
        seed: seed of the first weights.
        sample: inputs as the network takes them, for LSUV and the statistics; None for blank inputs.

    Returns:
        The network, and statistics of its layers before the initialization and after it.

    Raises:
        UserError: the network can't be built or doesn't accept the data; a rule or pattern matches nothing; or the
            pretrained weights don't fit, or don't cover the parameters to freeze.
    """
    config = config.resolved(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, compiled = uncompiled(_make(model.name, model.args, data))
        if compiled:
            logger.info(
                "network  torch.compile of %s is left out: --train.compile on compiles the training",
                ", ".join(compiled),
            )
        if data.goal:
            inputs = try_task(network, model.name, data)
        else:
            _try_on_images(network, model, data)  # before the weights, since it gives lazy layers their shapes
            inputs = blank(data) if sample is None else sample
        before = measure(network, inputs)
        fill(network, config, seed, inputs)
        untrained = load_pretrained(network, model.name, model.weights) if model.weights else []
        freeze(network, model.freeze, untrained)
        if unused := config.unused():
            logger.warning(
                "initialize  %s: nothing changes, since the network keeps the weights of its constructor. Name a "
                "scheme, as in --initialize xavier_normal, or layers by --initialize.rules",
                " and ".join(unused),
            )
        if model.freeze and not model.weights and config.name != "none":
            logger.warning(
                "freeze  without --model.weights, the frozen parameters are first weights by %s; --initialize none "
                "keeps those of the constructor",
                config.name,
            )
        return network, compare(before, measure(network, inputs))


def _try_on_images(network: nn.Module, model: ModelConfig, data: DataRef) -> None:
    """Try a network, and explain the error if it takes one size of images that are not square."""
    try:
        try_on(network, model.name, data)
    except UserError as error:
        accepted = inspect.signature(find(model.name)).parameters
        if (
            not data.field.is_picture
            or data.shape[1] == data.shape[2]
            or "image_size" not in {*accepted} - {*model.args}
        ):
            raise
        raise UserError(
            str(error),
            f"Its image_size is the images' height, {data.shape[1]}. Take image_height and image_width in the "
            "constructor, or make the images square; for a folder of images: "
            f"--data.args '{{\"image_size\": {min(data.shape[1:])}}}'.",
        ) from error


def build(reference: str, arguments: Mapping[str, object], data: DataRef) -> nn.Module:
    """Make the network that a reference names, without the compilations of its constructor.

    Arguments of its constructor that the data knows are filled in (``DataRef.arguments``).

    Raises:
        UserError: its file doesn't import, or its constructor fails or returns no module with parameters.

    Example:
        >>> build("simple_cnn", {}, data)
        >>> build("my_net.py:MyNet", {"width": 48}, data)
    """
    return uncompiled(_make(reference, arguments, data))[0]


def _make(reference: str, arguments: Mapping[str, object], data: DataRef) -> nn.Module:
    offered = {name: value for name, value in facts(data).items() if name != "fields"} if data.goal else data.arguments
    network = call(find(reference), arguments, reference, "--model.args", offered=offered, offered_by=data.name)
    if not isinstance(network, nn.Module):
        raise UserError(f"{reference} makes a {type(network).__name__}, not a torch.nn.Module.")
    if next(network.parameters(), None) is None:
        raise UserError(
            f"{reference} has no parameters to train.", "Are its layers kept in a plain list? Use nn.ModuleList."
        )
    return network


def find(reference: str) -> Callable[..., object]:
    """Return the class or function that a reference names.

    Raises:
        UserError: its module doesn't import, or has no such class or function.
    """
    place, _, name = reference.rpartition(":")
    if place == TORCHVISION:
        from torchmill.components.initialization.torchvision import classifier

        return classifier(name)
    if not place:
        module = MODELS.load(reference)
        class_name = reference.replace("_", "")
        return next(
            value
            for key, value in vars(module).items()
            if key.lower() == class_name and inspect.isclass(value) and value.__module__ == module.__name__
        )
    module = import_from(place)
    factory = getattr(module, name, None)
    if factory is None:
        classes = [
            key for key, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
        ]
        raise UserError(f"{place} has no '{name}'.", nearest(name, classes))
    if inspect.isclass(factory) and not issubclass(factory, nn.Module):
        raise UserError(f"{reference} is a class but not a torch.nn.Module.", "Derive it from torch.nn.Module.")
    if not callable(factory):
        raise UserError(f"{reference} is a {type(factory).__name__}, neither a class nor a function.")
    return factory


def try_on(network: nn.Module, reference: str, data: DataRef) -> None:
    """Run the network on two blank inputs in evaluation and training mode, and check the shape of its outputs.

    Restores buffers, gradients and modes.

    Raises:
        UserError: forward or backward fails, with the layer; or there is not one output per class, label or target.
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
        with torch.enable_grad():  # the caller may have disabled it
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
                f"{reference} fails in backward: an in-place operation changed a value that backward needs"
                f"{_overwritten(network, inputs)}: {first_hand(error)[:200]} …",
                "Make a new value: h = h + 1 and not h += 1, torch.relu(h) and not h.relu_(), inplace=False.",
            ) from error
        layer = f" in its layer {inside[-1][0]}: {inside[-1][1]}" if inside else ""
        raise UserError(
            f"{reference} fails on {data.kind} of shape {tuple(inputs.shape)}{layer}: {first_hand(error)}",
            f"{data.name} has {data.field.shape_words} = {data.shape}."
            + " Take in_channels in the constructor: the data fills it in." * bool(CHANNELS.search(str(error))),
        ) from error
    finally:
        network.zero_grad(set_to_none=True)
        for handle in handles:
            handle.remove()
        for layer, mode in modes.items():
            layer.training = mode


CHANNELS = re.compile(r"to have \d+ channels, but got \d+ channels")


def _overwritten(network: nn.Module, inputs: Tensor) -> str:
    """Name the line of forward that made the overwritten value, if autograd knows it."""
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True, check_nan=False):
        warnings.simplefilter("always")
        try:
            with torch.enable_grad():
                sum(output.sum() for output in outputs_of(network(inputs))).backward()
        except Exception:  # expected; this run only finds the place
            pass
    lines = re.findall(r'File "([^"]+)", line (\d+)', " ".join(str(warning.message) for warning in caught))
    libraries = (Path(__file__).parents[1], Path(torch.__file__).parent)
    users = [(file, line) for file, line in lines if not any(place in Path(file).parents for place in libraries)]
    return f", made in {Path(users[-1][0]).name} line {users[-1][1]}" if users else ""


def outputs_of(output: object) -> tuple[Any, ...]:
    """Return a network's output, followed by its auxiliary outputs, which GoogLeNet and Inception add in training."""
    return tuple(part for part in output if part is not None) if isinstance(output, tuple | list) else (output,)


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
        return f"Pool over {data.field.pool_over}: one row for each sample."
    return "Take num_classes in its constructor, or set the number of outputs by --model.args."
