"""A class for each pixel."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.batches.outputs import main_output
from torchmill.components.errors import UserError
from torchmill.components.metrics.sample_grid import as_rgb, overlaid, save_grid

IGNORED = -100
"""Class of pixels that neither loss nor measures count."""

NEAR = 2
"""Distance, in pixels, up to which a boundary counts as right."""


class Segmentation:
    """Loss: cross-entropy of pixels. The network gives logits (N, classes, H, W) of any size; they are resized.

    Measures:

    - ``iou``: intersection over union, summed over all pixels of the split, mean over the classes that occur
    - ``dice``: 2 · intersection / (truth + answer), likewise
    - ``pixel_accuracy``: share of right pixels
    - ``boundary_f1``: boundaries between classes that are within 2 pixels of one (Csurka et al. 2013)

    Args:
        dice: weight of the Dice loss (Milletari et al. 2016) beside the cross-entropy, for small objects.
    """

    main_measure = "iou"

    def __init__(self, fields: Mapping[str, FieldRef], dice: float = 0.0):
        masks = [field for field in fields.values() if field.kind == "mask" and field.is_target]
        images = [field for field in inputs_of(list(fields.values())) if len(field.shape) == 3]
        if len(masks) != 1 or not images:
            raise UserError(
                f"Segmentation needs a picture and one mask; the fields are "
                f"{', '.join(field.words() for field in fields.values())}.",
                "Return {'image': uint8 (N, H, W, 3), 'mask': integers (N, H, W)}.",
            )
        if images[0].shape[1:] != masks[0].shape:
            sides = ["x".join(map(str, shape)) for shape in (masks[0].shape, images[0].shape[1:])]
            raise UserError(f"The masks are {sides[0]} pixels, and the pictures {sides[1]}.", "Bring them to one size.")
        self.target, self.image, self.classes, self.dice = masks[0].name, images[0].name, masks[0].size, dice

    @staticmethod
    def fits(target: FieldRef) -> str:
        return "is a mask" if target.kind == "mask" else ""

    def loss(self, network: torch.nn.Module, batch: Batch) -> Tensor | dict[str, Tensor]:
        logits, truth = self._logits(network, batch), batch[self.target]
        cross_entropy = F.cross_entropy(logits, truth, ignore_index=IGNORED, reduction="sum")
        cross_entropy = cross_entropy / (truth != IGNORED).sum().clamp(min=1)
        if not self.dice:
            return cross_entropy
        shares, counted = logits.softmax(1), truth != IGNORED
        wanted = F.one_hot(truth.clamp(min=0), self.classes).movedim(-1, 1) * counted[:, None]
        shares = shares * counted[:, None]
        overlap, total = (shares * wanted).sum((0, 2, 3)), (shares + wanted).sum((0, 2, 3))
        return {"cross_entropy": cross_entropy, "dice": self.dice * (1 - ((2 * overlap + 1) / (total + 1)).mean())}

    def predict(self, network: torch.nn.Module, inputs: Batch) -> dict[str, Tensor]:
        """Return ``probabilities`` (N, classes, H, W), and ``mask``: the likeliest class of each pixel, (N, H, W)."""
        logits = self._logits(network, inputs)
        return {"probabilities": logits.softmax(1), "mask": logits.argmax(1)}

    def measure(self, answer: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        truth, mask = batch[self.target], answer["mask"]
        counted = truth != IGNORED
        pairs = torch.where(counted, truth * self.classes + mask, self.classes**2)
        cells = (
            F.one_hot(pairs.flatten(1), self.classes**2 + 1).sum(1)[:, :-1]
            if self.classes <= 8
            else _counts(pairs.flatten(1), self.classes**2)
        )
        confusion = cells.view(-1, self.classes, self.classes)
        near_truth, near_answer = _near(truth), _near(mask)
        edge_truth, edge_answer = _boundary(truth), _boundary(mask)
        return {
            "intersection": confusion.diagonal(dim1=1, dim2=2),
            "truth": confusion.sum(2),
            "answer": confusion.sum(1),
            "boundary_right": torch.stack([(edge_answer & near_truth).sum((1, 2)), edge_answer.sum((1, 2))], 1),
            "boundary_found": torch.stack([(edge_truth & near_answer).sum((1, 2)), edge_truth.sum((1, 2))], 1),
        }

    def summarize(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        both, truth, answer = means["intersection"], means["truth"], means["answer"]
        union, occurs = truth + answer - both, truth + answer > 0
        precision, recall = (
            part[0] / part[1].clamp(min=1e-9) for part in (means["boundary_right"], means["boundary_found"])
        )
        return {
            "iou": (both / union.clamp(min=1e-9))[occurs].mean(),
            "dice": (2 * both / (truth + answer).clamp(min=1e-9))[occurs].mean(),
            "pixel_accuracy": both.sum() / truth.sum().clamp(min=1e-9),
            "boundary_f1": 2 * precision * recall / (precision + recall).clamp(min=1e-9),
        }

    def draw(self, network: torch.nn.Module, batch: Batch, folder: Path) -> list[Path]:
        """Draw pictures, the true masks over them, and the answered ones."""
        pictures = as_rgb(batch.raw[self.image].float().cpu().numpy())
        masks = batch[self.target], self.predict(network, batch)["mask"]
        path = folder / "masks.png"
        save_grid([pictures, *(overlaid(pictures, mask.cpu().numpy()) for mask in masks)], path)
        return [path]

    def _logits(self, network: torch.nn.Module, inputs: Batch) -> Tensor:
        logits = main_output(network(inputs), "logits")
        size = inputs[self.image].shape[2:]
        if logits.dim() != 4 or logits.shape[1] != self.classes:
            raise UserError(
                f"The network gives {tuple(logits.shape)}; expected logits (N, {self.classes}, height, width).",
                "Take num_classes in its constructor.",
            )
        if logits.shape[2:] == size:
            return logits
        return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def _counts(numbers: Tensor, count: int) -> Tensor:
    """Return how often each number below ``count`` occurs in each row."""
    totals = torch.zeros(len(numbers), count + 1, dtype=torch.long, device=numbers.device)
    return totals.scatter_add_(1, numbers, torch.ones_like(numbers))[:, :-1]


def _boundary(mask: Tensor) -> Tensor:
    """Return the pixels next to another class, bool (N, H, W); ignored pixels have none."""
    edge = torch.zeros_like(mask, dtype=torch.bool)
    down, right = mask[:, 1:] != mask[:, :-1], mask[:, :, 1:] != mask[:, :, :-1]
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    edge[:, :, 1:] |= right
    edge[:, :, :-1] |= right
    return edge & (mask != IGNORED)


def _near(mask: Tensor) -> Tensor:
    """Return the pixels within ``NEAR`` pixels of a boundary."""
    edge = _boundary(mask).float()[:, None]
    return F.max_pool2d(edge, 2 * NEAR + 1, stride=1, padding=NEAR)[:, 0] > 0
