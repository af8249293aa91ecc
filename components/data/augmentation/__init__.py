"""Augmentations of images, one per file: a file with ``change(pixels, rng, *, strength)`` is an option.

Draws are a function of seed, epoch and batch alone. Shared: mixing, resampling, torchvision's transforms.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from contextvars import ContextVar
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from torchmill.components.data.config import AUGMENTATIONS, split_strength
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef


class Augmentation:
    """Changes batches of training samples; the same seed, epoch and batch give the same change.

    It has its own generators, so that a training that resumes in the middle of an epoch needs no replay.
    Images stay uint8 on their device, unless they are mixed.

    Args:
        names: augmentations, each with its strength after a colon if it isn't the usual one: ``shift:3``.
        mixup, cutmix: alpha of the Beta distribution that weighs the samples; 0 mixes none.

    Raises:
        UserError: the data has no images to change, or nothing that can be mixed.

    Example:
        >>> augment = Augmentation(data, seed=0, names=("flip", "shift:3"), mixup=0.2)  # doctest: +SKIP
        >>> inputs, labels = augment((inputs, labels), epoch=1, batch=0, samples=indices)  # doctest: +SKIP
    """

    def __init__(self, data: DataRef, seed: int, names: Sequence[str] = (), mixup: float = 0.0, cutmix: float = 0.0):
        if names and not data.field.is_picture:
            raise UserError(f"--train.augment changes images; {data.name} has {data.kind}.", "Leave it out.")
        if (mixup and not data.field.can_mix) or (cutmix and not data.field.is_picture):
            raise UserError(
                f"{data.name} has {data.kind}: mixup mixes images or numbers, cutmix images alone.", "Leave it out."
            )
        self.seed, self.mixup, self.cutmix = seed, mixup, cutmix
        self.task, self.outputs = data.task_object, len(data.classes)
        self.moving: set[str | int] = set()
        """Changes that move pixels: names of those by sample, places of the others."""
        self.sample_changes: dict[str, Callable[..., Tensor]] = {}
        """Changes that depend on the sample and the epoch, by name: twice the same would undo itself."""
        self.changes: list[Callable[[Tensor, torch.Generator], Tensor]] = []
        """Changes of images, uint8 NCHW, that draw from a generator."""
        for name, strength in map(split_strength, names):
            module = _load(name, data.shape)
            if getattr(module, "MOVES", False):
                self.moving.add(name if hasattr(module, "change_samples") else len(self.changes))
            if hasattr(module, "change_samples"):
                self.sample_changes[name] = partial(module.change_samples, strength=strength)
            else:
                self.changes.append(partial(module.change, strength=strength))

    def __call__(self, pair: tuple[Tensor, Tensor], epoch: int, batch: int, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return the changed batch; if samples are mixed, inputs are floats and labels shares of classes, (N, K).

        Args:
            pair: inputs and labels.
            samples: numbers of the samples in the split, (N,), on the CPU.
        """
        inputs, labels = pair
        for change in self.sample_changes.values():
            inputs = change(inputs, samples, epoch, self.seed)
        for place, change in enumerate(self.changes):
            inputs = change(inputs, self._generator(epoch, batch, place))
        if self.mixup or self.cutmix:
            return self._mix(inputs, labels, self._generator(epoch, batch, len(self.changes)))
        return inputs, labels

    def moved(self, masks: Tensor, epoch: int, batch: int, samples: Tensor) -> Tensor:
        """Return masks, uint8 (N, 1, H, W), moved as ``__call__`` moves the images of that batch."""
        for name in self.moving & self.sample_changes.keys():
            masks = self.sample_changes[str(name)](masks, samples, epoch, self.seed)
        for place, change in enumerate(self.changes):
            masks = change(masks, self._generator(epoch, batch, place)) if place in self.moving else masks
        return masks

    def _generator(self, epoch: int, batch: int, place: int) -> torch.Generator:
        number = ((self.seed * 1_000_003 + epoch) * 1_000_003 + batch + place * 7_368_787) % 2**63
        return torch.Generator().manual_seed(number)

    def _mix(self, inputs: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix each sample with another one (Zhang et al. 2018, Yun et al. 2019)."""
        cut = self.cutmix and (not self.mixup or torch.rand((), generator=rng).item() < 0.5)
        share = _beta(self.cutmix if cut else self.mixup, rng)
        partner = torch.randperm(len(inputs), generator=rng).to(inputs.device)
        targets = self.task.shares(labels, self.outputs)
        if cut:
            top, bottom, left, right = _rectangle(*inputs.shape[2:], 1 - share, rng)
            inputs = inputs.clone()
            inputs[:, :, top:bottom, left:right] = inputs[partner][:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (inputs.shape[2] * inputs.shape[3])
        else:
            inputs = inputs[partner].float().lerp(inputs.float(), share)
        return inputs, targets[partner].lerp(targets, share)


def _load(name: str, shape: Sequence[int]) -> ModuleType:
    """Import a change, if it suits the images.

    Raises:
        UserError: the images have another number of channels.
    """
    channels = AUGMENTATIONS[name].constant("CHANNELS")
    if channels and shape[0] not in channels:
        raise UserError(f"--train.augment {name} changes grey or RGB images; these have {shape[0]} channels.")
    return AUGMENTATIONS.load(name)


def _beta(alpha: float, rng: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha): X / (X + Y) of two gamma variates."""
    first, second = torch._standard_gamma(torch.full((2,), alpha, dtype=torch.float64), generator=rng).tolist()
    return first / (first + second) if first + second > 0 else 0.5


def _rectangle(height: int, width: int, share: float, rng: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a rectangle of that share of the area around any pixel, cut off at the edges: top, bottom, left, right."""
    half_height, half_width = round(height * share**0.5) // 2, round(width * share**0.5) // 2
    row = int(torch.randint(height, (), generator=rng))
    column = int(torch.randint(width, (), generator=rng))
    top, bottom = max(0, row - half_height), min(height, row + half_height)
    return top, bottom, max(0, column - half_width), min(width, column + half_width)


def between(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Draw uniform numbers."""
    return low + (high - low) * torch.rand(shape, generator=rng)


def flip_some(pixels: Tensor, probability: float, dimension: int, rng: torch.Generator) -> Tensor:
    """Mirror some of the images along a dimension."""
    mirrored = (torch.rand(len(pixels), generator=rng) < probability).to(pixels.device)
    return torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(dimension), pixels)


def move(
    pixels: Tensor,
    rng: torch.Generator,
    *,
    degrees: float = 0,
    shear_degrees: float = 0,
    by: float = 0,
    growth: float = 0,
) -> Tensor:
    """Turn, shear, move and grow each image around its centre by random amounts; the pixels that come in are black.

    It changes all images at once. Torchvision's transforms change those of a batch alike, or take them one by one.

    Args:
        degrees, shear_degrees: largest angles each way.
        by, growth: largest shift and growth each way, as shares of the size.
    """
    count = len(pixels)
    turn, shear = between(-1, 1, (2, count), rng) * torch.tensor([[degrees], [shear_degrees]]).deg2rad()
    scale = 1 / (1 + growth * between(-1, 1, (count,), rng))
    offsets = 2 * by * between(-1, 1, (2, count), rng)
    ratio = pixels.shape[2] / pixels.shape[3]  # grid coordinates are shares of each side
    cos, sin, tan = turn.cos() * scale, turn.sin() * scale, shear.tan()
    matrix = torch.stack(
        [
            torch.stack([cos, (cos * tan - sin) * ratio, offsets[0]], 1),
            torch.stack([sin / ratio, sin * tan + cos, offsets[1]], 1),
        ],
        1,
    )
    return resample(pixels, matrix, "zeros")


_interpolation: ContextVar[str] = ContextVar("interpolation", default="bilinear")


@contextlib.contextmanager
def nearest_neighbour() -> Generator[None]:
    """Resample by the nearest pixel, as masks need it."""
    token = _interpolation.set("nearest")
    try:
        yield
    finally:
        _interpolation.reset(token)


def resample(pixels: Tensor, matrix: Tensor, padding: str) -> Tensor:
    """Resample each image by its affine map, (N, 2, 3)."""
    grid = affine_grid(matrix.to(pixels.device), list(pixels.shape), align_corners=False)
    mode = _interpolation.get()
    return as_pixels(grid_sample(pixels.float(), grid, mode=mode, padding_mode=padding, align_corners=False))


def as_pixels(images: Tensor) -> Tensor:
    """Round floats to uint8, in place."""
    return images.round_().clamp_(0, 255).to(torch.uint8)


def one_by_one(transform: Any, pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Apply one of torchvision's transforms to each image: given a batch, it would change all images alike."""
    with _drawing_from(rng):
        return torch.stack([transform(image) for image in pixels])


@contextlib.contextmanager
def _drawing_from(rng: torch.Generator) -> Generator[None]:
    """Set torch's global CPU generator, the only one that the transforms use, to the state of ``rng``."""
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(rng.get_state())
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
