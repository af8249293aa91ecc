"""The classification networks of torchvision, adapted to the channels, classes and image size of a data set."""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchmill.components.errors import UserError, nearest

USUAL_SIZE = {"inception_v3": 299, "maxvit_t": 224}
"""Size in pixels of the images that these networks need, roughly; that of all others is 224 but may be smaller."""
FINAL_MAP = 2
"""Smallest size in pixels of the feature map before the last pooling."""
PATCHES = 7
"""Fewest patches of a Vision Transformer along each side of an image."""
STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)


def names() -> list[str]:
    """Return the names of torchvision's classification networks."""
    from torchvision import models  # takes seconds, so only users of torchvision pay for it

    return models.list_models(module=models)


def classifier(name: str) -> Callable[..., nn.Module]:
    """Return a function that makes torchvision's network of a name.

    Raises:
        UserError: torchvision has no such network.
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

    These networks halve an image five times, which leaves 1 of 32 pixels. For small images the first halvings are
    removed, as is usual for CIFAR: strides become 1, pooling layers vanish, and large first kernels become 3×3.

    Args:
        name: name of the network in torchvision.
        num_classes: number of classes.
        in_channels: channels of the images.
        image_size: size of the images in pixels.
        fewer_halvings: number of halvings to remove; None for as many as necessary.
        arguments: further arguments of torchvision's constructor.

    Raises:
        UserError: the network does not work with images of that size.
    """
    arguments = dict(arguments or {})
    if name in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", False)  # takes minutes in scipy, and we initialize anyway
    if name.startswith("vit_"):
        return _transformer(name, num_classes, in_channels, image_size, arguments)
    if name == "maxvit_t":
        return _maxvit(name, num_classes, in_channels, image_size, arguments)
    fewest = max(0, round(math.log2(32 * FINAL_MAP / image_size)))
    for halvings in range(fewest, 6) if fewer_halvings is None else [fewer_halvings]:
        build = functools.partial(_build, name, num_classes, in_channels, image_size, halvings, arguments)
        if _accepts(build, in_channels, image_size):
            return build()
    raise UserError(
        f"torchvision:{name} does not work with images of {image_size} pixels.",
        "Use a smaller network, or larger images.",
    )


def _make(name: str, num_classes: int, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=num_classes, **arguments)


def _build(
    name: str, num_classes: int, in_channels: int, image_size: int, halvings: int, arguments: dict[str, Any]
) -> nn.Module:
    network = _adapt_channels(_make(name, num_classes, arguments), in_channels)
    if halvings:
        _remove_halvings(network, _levels(name, num_classes, arguments), halvings)
    auxiliary = getattr(network, "AuxLogits", None)
    if auxiliary is not None and image_size < USUAL_SIZE[name]:  # Inception's head accepts only maps of 17×17
        parts: OrderedDict[str, nn.Module] = OrderedDict(pool=nn.AdaptiveAvgPool2d(5))
        parts |= dict(auxiliary.named_children())
        fc = parts.pop("fc")
        parts |= {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": fc}
        network.AuxLogits = nn.Sequential(parts)
    return network


def _accepts(build: Callable[[], nn.Module], channels: int, size: int) -> bool:
    """Return True if a network accepts images of a size; computes shapes only, on the meta device."""
    network = _skeleton(build)
    with torch.device("meta"):
        try:
            network.train()(torch.empty(2, channels, size, size))
        except (RuntimeError, ValueError, AssertionError):  # torch's errors for images that vanish
            return False
    return True


def _skeleton(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a network on the meta device, without values."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # RegNet computes its widths with tensors
        return build().to("meta")


def _levels(name: str, num_classes: int, arguments: dict[str, Any]) -> list[dict[str, int]]:
    """Return the layers that shrink an image and their strides, grouped by the size of their input, largest first."""
    size = USUAL_SIZE.get(name, 224)
    levels: dict[int, dict[str, int]] = {}
    network = _skeleton(lambda: _make(name, num_classes, arguments)).eval()
    with torch.device("meta"):
        for path, layer in network.named_modules():
            if isinstance(layer, STRIDED) and _stride(layer) > 1:
                layer.register_forward_pre_hook(
                    lambda module, inputs, path=path: levels.setdefault(inputs[0].shape[-1], {}).update(
                        {path: _stride(module)}
                    )
                )
        network(torch.empty(2, 3, size, size))
    return [levels[width] for width in sorted(levels, reverse=True)]


def _stride(layer: Any) -> int:
    return layer.stride if isinstance(layer.stride, int) else layer.stride[0]


def _remove_halvings(network: nn.Module, levels: list[dict[str, int]], halvings: int) -> None:
    """Remove the first halvings; those of a level go together, since they may be branches of one block."""
    for level in levels:
        if halvings <= 0:
            return
        stride = max(level.values())
        new_stride = max(1, stride >> halvings)
        for path in level:
            layer = network.get_submodule(path)
            if not isinstance(layer, nn.Conv2d):
                _replace(network, path, nn.Identity())
            elif layer.kernel_size[0] >= 7:
                smaller = _like(layer, kernel_size=(3, 3), stride=(new_stride, new_stride), padding=(1, 1))
                _replace(network, path, smaller)
            else:
                layer.stride = (new_stride, new_stride)
        halvings -= round(math.log2(stride / new_stride))


def _adapt_channels(network: nn.Module, channels: int) -> nn.Module:
    """Replace the first convolution if it takes another number of channels."""
    path, layer = next((path, layer) for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    if layer.in_channels != channels:
        _replace(network, path, _like(layer, in_channels=channels))
    return network


def _like(layer: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    """Make a convolution like another one, but for some changed arguments."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    arguments: dict[str, Any] = {name: getattr(layer, name) for name in names} | {"bias": layer.bias is not None}
    return nn.Conv2d(**(arguments | changes))


def _replace(network: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)


def _maxvit(name: str, num_classes: int, in_channels: int, image_size: int, arguments: dict[str, Any]) -> nn.Module:
    """Make a MaxViT, whose windows divide only multiples of 224: other images are enlarged."""
    size = 224 * math.ceil(image_size / 224)
    network = _adapt_channels(_make(name, num_classes, {**arguments, "input_size": (size, size)}), in_channels)
    if size == image_size:
        return network
    resize = nn.Upsample(size=(size, size), mode="bilinear")
    return nn.Sequential(OrderedDict(resize=resize, network=network))


def _transformer(
    name: str, num_classes: int, in_channels: int, image_size: int, arguments: dict[str, Any]
) -> nn.Module:
    """Make a Vision Transformer with patches that divide the image: small ones for small images."""
    usual = int(name.rpartition("_")[2])
    largest = max(1, min(usual, image_size // PATCHES))
    patch = next(size for size in range(largest, 0, -1) if image_size % size == 0)
    if image_size // patch > 64:
        raise UserError(
            f"torchvision:{name} would cut images of {image_size} pixels into patches of {patch} pixels.",
            "Resize the images to a size with a divisor near 16.",
        )
    network: Any = _make(name, num_classes, {**arguments, "image_size": image_size // patch * usual})
    network.patch_size, network.image_size = patch, image_size
    projection = network.conv_proj
    if patch != usual or in_channels != projection.in_channels:
        size = {"kernel_size": (patch, patch), "stride": (patch, patch)}
        network.conv_proj = _like(projection, in_channels=in_channels, **size)
    return network


def pretrained(name: str, weights: str) -> dict[str, torch.Tensor]:
    """Return torchvision's weights for a network by their name or DEFAULT; downloads them once.

    Raises:
        UserError: there are no weights of that name, or the download fails.
    """
    from torchvision import models

    available: Any = models.get_model_weights(name)
    by_name = {member.name: member for member in available}
    if weights not in (*by_name, "DEFAULT"):
        raise UserError(f"torchvision has no weights '{weights}' for {name}.", nearest(weights, [*by_name, "DEFAULT"]))
    chosen = available.DEFAULT if weights == "DEFAULT" else by_name[weights]
    try:
        return chosen.get_state_dict(check_hash=True, progress=False)
    except (OSError, RuntimeError) as error:  # no network, or a file with another digest
        raise UserError(
            f"Cannot download the weights {chosen.name} of {name}: {error}.",
            f"Download {chosen.url} yourself, and pass the file: --model.weights FILE.",
        ) from error
