"""The classification networks of torchvision, adapted to the channels, the classes and the size of a data set."""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchmill.components.errors import UserError, nearest

USUAL_SIZE = {"inception_v3": 299, "maxvit_t": 224}
"""Of images, pixels; 224 for all others. What has a size of its own here bears no much smaller one."""
FINAL_MAP = 2
"""What is left of an image before the last pooling, pixels each way, is to be that at least."""
PATCHES = 7
"""Patches of a Vision Transformer, each way, at least."""
STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def names() -> list[str]:
    """All classification networks that torchvision has."""
    from torchvision import models  # seconds, which only those wait for who use it

    return models.list_models(module=models)


def classifier(name: str) -> Callable[..., nn.Module]:
    """Give what makes the network of that name.

    Raises:
        UserError: torchvision has none.
    """
    if name not in names():
        raise UserError(f"torchvision has no network '{name}'.", nearest(name, names()))

    def make(
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 224,
        fewer_halvings: int | None = None,
        **arguments: Any,
    ) -> nn.Module:
        return adapted(name, num_classes, in_channels, image_size, fewer_halvings, arguments)

    return make


def adapted(
    name: str,
    num_classes: int,
    in_channels: int,
    image_size: int,
    fewer_halvings: int | None = None,
    arguments: dict[str, Any] | None = None,
) -> nn.Module:
    """Make a network for images of any size and number of channels.

    These networks halve an image five times, which leaves nothing of one of 32 pixels. Of small images the first
    halvings are left out, as is usual for CIFAR: strides become 1, poolings go, and large first kernels become 3×3.

    Args:
        fewer_halvings: how many; as many as needed where it isn't said.
        arguments: for torchvision's own constructor.

    Raises:
        UserError: it can't be made for images of that size.
    """
    given = dict(arguments or {})
    if name in ("googlenet", "inception_v3"):
        given.setdefault("init_weights", False)  # by scipy, minutes; we initialise anyway
    if name.startswith("vit_"):
        return _transformer(name, num_classes, in_channels, image_size, given)
    if name == "maxvit_t":  # its windows divide sizes of 224 alone
        size = 224 * math.ceil(image_size / 224)
        network = _with_channels(_made(name, num_classes, {**given, "input_size": (size, size)}), in_channels)
        if size == image_size:
            return network
        resize = nn.Upsample(size=(size, size), mode="bilinear")
        return nn.Sequential(OrderedDict(resize=resize, network=network))
    wanted = max(0, round(math.log2(32 * FINAL_MAP / image_size))) if fewer_halvings is None else fewer_halvings
    for halvings in [wanted] if fewer_halvings is not None else range(wanted, 6):
        if _bears(lambda: _built(name, num_classes, in_channels, image_size, halvings, given), in_channels, image_size):  # noqa: B023
            return _built(name, num_classes, in_channels, image_size, halvings, given)
    raise UserError(
        f"torchvision:{name} does not bear images of {image_size} pixels.", "Take a smaller network, or larger images."
    )


def _made(name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=num_classes, **arguments)


def _built(
    name: str, num_classes: int, in_channels: int, image_size: int, halvings: int, arguments: dict[str, Any]
) -> nn.Module:
    network = _with_channels(_made(name, num_classes, arguments), in_channels)
    if halvings:
        _leave_out(network, _levels(name, num_classes, arguments), halvings)
    auxiliary = getattr(network, "AuxLogits", None)
    if auxiliary is not None and image_size < USUAL_SIZE[name]:  # Inception's, made for a map of 17×17 alone
        parts: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AdaptiveAvgPool2d(5))
        parts |= dict(auxiliary.named_children())
        fc = parts.pop("fc")
        parts |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": fc}
        network.AuxLogits = nn.Sequential(parts)
    return network


def _bears(build: Callable[[], nn.Module], channels: int, size: int) -> bool:
    """Try whether a network takes images of that size, without computing anything."""
    network = _skeleton(build)
    with torch.device("meta"):
        try:
            network.train()(torch.empty(2, channels, size, size))
        except (RuntimeError, ValueError, AssertionError):  # torch's words for an image that has vanished
            return False
    return True


def _skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network without any numbers in it."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # RegNet computes its widths by tensors
        return build().to("meta")


def _levels(name: str, num_classes: int, arguments: dict[str, Any]) -> list[dict[str, int]]:
    """Names of the layers that shrink an image, with their strides: those of its full size, then of the next one."""
    size = USUAL_SIZE.get(name, 224)
    found: dict[int, dict[str, int]] = {}
    network = _skeleton(lambda: _made(name, num_classes, arguments)).eval()
    with torch.device("meta"):
        for path, layer in network.named_modules():
            if isinstance(layer, STRIDED) and _stride(layer) > 1:
                layer.register_forward_pre_hook(
                    lambda module, inputs, path=path: found.setdefault(inputs[0].shape[-1], {}).update(
                        {path: _stride(module)}
                    )
                )
        network(torch.empty(2, 3, size, size))
    return [found[width] for width in sorted(found, reverse=True)]


def _stride(layer: Any) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


def _leave_out(network: nn.Module, levels: list[dict[str, int]], halvings: int) -> None:
    """Take out the first halvings: those of a level together, since they may be branches of one block."""
    for level in levels:
        if halvings <= 0:
            return
        stride = max(level.values())
        left = max(1, stride >> halvings)
        for path in level:
            layer = network.get_submodule(path)
            if not isinstance(layer, nn.Conv2d):
                _replace(network, path, nn.Identity())
            elif layer.kernel_size[0] >= 7:
                _replace(network, path, _like(layer, kernel_size=(3, 3), stride=(left, left), padding=(1, 1)))
            else:
                layer.stride = (left, left)
        halvings -= round(math.log2(stride / left))


def _with_channels(network: nn.Module, channels: int) -> nn.Module:
    """Have the first convolution take that many channels."""
    path, layer = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if layer.in_channels != channels:
        _replace(network, path, _like(layer, in_channels=channels))
    return network


def _like(layer: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    made: dict[str, Any] = {
        **{name: getattr(layer, name) for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")},
        "bias": layer.bias is not None,
    }
    return nn.Conv2d(**{**made, **changes})


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _transformer(
    name: str, num_classes: int, in_channels: int, image_size: int, arguments: dict[str, Any]
) -> nn.Module:
    """Make a Vision Transformer whose patches divide the image: smaller ones for small images."""
    usual = int(name.rpartition("_")[2])
    largest = max(1, min(usual, image_size // PATCHES))
    patch = next(size for size in range(largest, 0, -1) if image_size % size == 0)
    if image_size // patch > 64:
        raise UserError(
            f"torchvision:{name} would cut images of {image_size} pixels into patches of {patch}.",
            "Resize them to a size with a divisor near 16.",
        )
    network: Any = _made(name, num_classes, {**arguments, "image_size": image_size // patch * usual})
    network.patch_size, network.image_size = patch, image_size
    projection = network.conv_proj
    if patch != usual or in_channels != projection.in_channels:
        size = {"kernel_size": (patch, patch), "stride": (patch, patch)}
        network.conv_proj = _like(projection, in_channels=in_channels, **size)
    return network


def pretrained(name: str, weights: str) -> dict[str, torch.Tensor]:
    """Give the weights that torchvision has for a network, by their name or DEFAULT; downloaded once.

    Raises:
        UserError: there are none of that name, or they cannot be had.
    """
    from torchvision import models

    known: Any = models.get_model_weights(name)
    named = {one.name: one for one in known}
    if weights not in (*named, "DEFAULT"):
        raise UserError(f"torchvision has no weights '{weights}' for {name}.", nearest(weights, [*named, "DEFAULT"]))
    chosen = known.DEFAULT if weights == "DEFAULT" else named[weights]
    try:
        return chosen.get_state_dict(check_hash=True, progress=False)
    except (OSError, RuntimeError) as error:  # no network; or a file that isn't what its name says
        raise UserError(
            f"Cannot get the weights {chosen.name} of {name}: {error}.",
            f"Fetch {chosen.url} yourself, and give the file: --model.weights FILE.",
        ) from error
