"""Random changes to training samples, a function of seed, epoch and batch alone."""

import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, one_hot, pad

from torchmill.components.data.config import AUGMENTATIONS
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef
from torchmill.components.training.config import TrainConfig

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Of a batch of images, uint8 NCHW; what is drawn comes from the generator."""


class Augmentation:
    """Changes batches of training samples; the same seed, epoch and batch give the same change.

    Generators of its own draw it, so that a training that goes on in the middle of an epoch needs no replay. Images
    stay uint8, on the device that they are on, unless they are mixed.

    Raises:
        UserError: the data has no images to change, or nothing that can be mixed.
    """

    def __init__(self, config: TrainConfig, data: DataRef, seed: int):
        if config.augment and data.kind != "images":
            raise UserError(f"--train.augment changes images; {data.name} has {data.kind}.", "Leave it out.")
        if (config.mixup and data.kind == "tokens") or (config.cutmix and data.kind != "images"):
            raise UserError(
                f"{data.name} has {data.kind}: mixup mixes images or numbers, cutmix images alone.", "Leave it out."
            )
        self.seed, self.mixup, self.cutmix = seed, config.mixup, config.cutmix
        self.classes = len(data.classes) if data.task == "classification" else 0
        self.alternates = any(item.startswith("flip_alternate") for item in config.augment)
        self.changes = [_change(item, data) for item in config.augment if not item.startswith("flip_alternate")]

    def __call__(
        self, inputs: Tensor, labels: Tensor, epoch: int, batch: int, samples: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give the changed batch; where samples are mixed, inputs are floats and labels shares of classes, (N, K).

        Args:
            samples: their numbers in the split, (N,), on the processor; what alternates over the epochs goes by them.
        """
        if self.alternates:
            inputs = flip_alternate(inputs, samples, epoch, self.seed)
        for place, change in enumerate(self.changes):
            inputs = change(inputs, self._generator(epoch, batch, place))
        if self.mixup or self.cutmix:
            return self._mix(inputs, labels, self._generator(epoch, batch, len(self.changes)))
        return inputs, labels

    def _generator(self, epoch: int, batch: int, place: int) -> torch.Generator:
        number = ((self.seed * 1_000_003 + epoch) * 1_000_003 + batch + place * 7_368_787) % 2**63
        return torch.Generator().manual_seed(number)

    def _mix(self, inputs: Tensor, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix each sample with another one (Zhang et al. 2018, Yun et al. 2019)."""
        cut = self.cutmix and (not self.mixup or torch.rand((), generator=rng).item() < 0.5)
        share = _beta(self.cutmix if cut else self.mixup, rng)
        other = torch.randperm(len(inputs), generator=rng).to(inputs.device)
        targets = one_hot(labels, self.classes).float() if self.classes else labels.float()
        if cut:
            top, bottom, left, right = _rectangle(*inputs.shape[2:], 1 - share, rng)
            inputs = inputs.clone()
            inputs[:, :, top:bottom, left:right] = inputs[other][:, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (inputs.shape[2] * inputs.shape[3])
        else:
            inputs = inputs[other].float().lerp(inputs.float(), share)
        return inputs, targets[other].lerp(targets, share)


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


def _change(item: str, data: DataRef) -> Change:
    name, _, given = item.partition(":")
    strength = float(given or AUGMENTATIONS[name][0])
    match name:
        case "shift":
            return lambda pixels, rng: shift(pixels, round(strength), rng)
        case "flip" | "flip_vertical":
            dimension = -1 if name == "flip" else -2
            return lambda pixels, rng: flip(pixels, strength, dimension, rng)
        case "rotate":
            return lambda pixels, rng: move(pixels, rng, degrees=strength)
        case "affine":
            return lambda pixels, rng: move(
                pixels, rng, degrees=90 * strength, shear_degrees=90 * strength, by=strength, growth=strength
            )
        case "crop":
            return lambda pixels, rng: crop(pixels, strength, rng)
        case "color":
            return lambda pixels, rng: recolor(pixels, strength, rng)
        case "erase":
            return lambda pixels, rng: erase(pixels, strength, rng)
        case _:
            return _one_by_one(_transform(name, strength, data.shape))


def shift(pixels: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """Move each image by up to ``most`` pixels each way; what comes in is black."""
    count, channels, height, width = pixels.shape
    device = pixels.device
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1, 1, 1), generator=rng).to(device)
    sample = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(-1, 1, 1)
    row = offsets[0] + torch.arange(height, device=device).view(-1, 1)
    column = offsets[1] + torch.arange(width, device=device)
    return pad(pixels, (most,) * 4)[sample, channel, row, column]


def flip(pixels: Tensor, probability: float, dimension: int, rng: torch.Generator) -> Tensor:
    """Mirror some of the images."""
    chosen = (torch.rand(len(pixels), generator=rng) < probability).to(pixels.device)
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(dimension), pixels)


def flip_alternate(pixels: Tensor, samples: Tensor, epoch: int, seed: int) -> Tensor:
    """Mirror each image in every other epoch, about half of them in the first (Jordan 2024).

    Drawn anew each time, an image would come the same way round twice in a row half of the time, and teach less.
    """
    first = ((samples + seed) * 2_654_435_761 >> 16) & 1  # Knuth's multiplicative hash
    chosen = ((first + epoch) % 2).bool().to(pixels.device)
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def move(
    pixels: Tensor,
    rng: torch.Generator,
    *,
    degrees: float = 0,
    shear_degrees: float = 0,
    by: float = 0,
    growth: float = 0,
) -> Tensor:
    """Turn, shear, move and grow each image around its centre, up to so much each way; what comes in is black.

    All images in one go: torchvision's transforms change a batch's images alike, or take them one by one.

    Args:
        by: share of the size.
        growth: likewise.
    """
    count = len(pixels)
    turn, shear = _between(-1, 1, (2, count), rng) * torch.tensor([[degrees], [shear_degrees]]).deg2rad()
    scale = 1 / (1 + growth * _between(-1, 1, (count,), rng))
    offsets = 2 * by * _between(-1, 1, (2, count), rng)
    ratio = pixels.shape[2] / pixels.shape[3]  # grid coordinates are shares of each side
    cos, sin, tan = turn.cos() * scale, turn.sin() * scale, shear.tan()
    matrix = torch.stack(
        [
            torch.stack([cos, (cos * tan - sin) * ratio, offsets[0]], 1),
            torch.stack([sin / ratio, sin * tan + cos, offsets[1]], 1),
        ],
        1,
    )
    return _sampled(pixels, matrix, "zeros")


def crop(pixels: Tensor, smallest: float, rng: torch.Generator) -> Tensor:
    """Grow a part of each image, of that share of its area at least, to the full size."""
    side = _between(smallest, 1, (len(pixels),), rng).sqrt()
    offsets = (1 - side) * _between(-1, 1, (2, len(pixels)), rng)
    zero = torch.zeros(len(pixels))
    matrix = torch.stack([torch.stack([side, zero, offsets[0]], 1), torch.stack([zero, side, offsets[1]], 1)], 1)
    return _sampled(pixels, matrix, "border")


def _sampled(pixels: Tensor, matrix: Tensor, padding: str) -> Tensor:
    grid = affine_grid(matrix.to(pixels.device), list(pixels.shape), align_corners=False)
    images = grid_sample(pixels.float(), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return images.round_().clamp_(0, 255).to(torch.uint8)


def recolor(pixels: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Change brightness and contrast of each image, and the saturation where it is RGB, by factors around 1."""
    factors = _between(1 - strength, 1 + strength, (3, len(pixels), 1, 1, 1), rng).to(pixels.device)
    images = pixels.float() * factors[0]
    if pixels.shape[1] == 3:
        weights = torch.tensor([0.299, 0.587, 0.114], device=pixels.device).view(1, 3, 1, 1)  # ITU-R BT.601
        images = (images * weights).sum(1, keepdim=True).lerp(images, factors[2])
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, factors[1])
    return images.round_().clamp_(0, 255).to(torch.uint8)


def erase(pixels: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Blacken a rectangle of 2 to 33 % of some of the images (Zhong et al. 2020)."""
    count, _, height, width = pixels.shape
    area = _between(0.02, 0.33, (count,), rng)
    aspect = _between(math.log(0.3), math.log(1 / 0.3), (count,), rng).exp()
    sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()]).clamp(max=1)  # shares of height and width
    begin = _between(0, 1, (2, count), rng) * (1 - sides)
    erased = torch.rand(count, generator=rng) < probability
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    across = (rows >= begin[0, :, None]) & (rows < (begin + sides)[0, :, None])
    along = (columns >= begin[1, :, None]) & (columns < (begin + sides)[1, :, None])
    mask = across[:, None, :, None] & along[:, None, None, :] & erased[:, None, None, None]
    return pixels.masked_fill(mask.to(pixels.device), 0)


def _between(low: float, high: float, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=rng)


def _transform(name: str, strength: float, shape: Sequence[int]) -> Any:
    """Make one of torchvision's transforms."""
    from torchvision.transforms import v2  # seconds, which only those wait for who use it

    channels, height, width = shape
    if name != "blur" and channels not in (1, 3):
        raise UserError(f"--train.augment {name} changes grey or RGB images; these have {channels} channels.")
    match name:
        case "blur":
            return v2.GaussianBlur(min(5, height - 1 + height % 2, width - 1 + width % 2), (0.1, strength))
        case "autocontrast":
            return v2.RandomAutocontrast(strength)
        case "trivial":
            return v2.TrivialAugmentWide(round(strength))
        case _:
            return v2.RandAugment(magnitude=round(strength))


def _one_by_one(transform: Any) -> Change:
    """Apply a transform to each image: given a batch, torchvision's would change all its images alike."""

    def change(pixels: Tensor, rng: torch.Generator) -> Tensor:
        with _drawing_from(rng):
            return torch.stack([transform(image) for image in pixels])

    return change


@contextlib.contextmanager
def _drawing_from(rng: torch.Generator) -> Generator[None]:
    """Have torch's global generator on the processor, the only one that the transforms draw from, be another one."""
    before = torch.default_generator.get_state()
    torch.default_generator.set_state(rng.get_state())
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
