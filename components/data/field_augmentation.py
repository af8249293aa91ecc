"""Augmentation of named fields: images are changed, masks move with them, and the other fields stay as they are."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from torchmill.components import fields
from torchmill.components.batches.batch import Batch
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.augmentation import Augmentation, nearest_neighbour
from torchmill.components.data.config import split_strength
from torchmill.components.data.named_fields import named_fields
from torchmill.components.errors import UserError
from torchmill.components.refs import DataRef

BOTH_WAYS = ("trivial", "rand")
"""Augmentations that move the pixels of some images alone."""

VIEW_STRIDE = 1_000_003
"""Distance of the batch numbers that the views of a batch draw by."""


class FieldAugmentation:
    """Changes batches of named fields as ``Augmentation`` changes images; with several views, each view differently.

    Example:
        >>> augment = FieldAugmentation(data, seed=0, names=("flip", "shift:3"))  # doctest: +SKIP
        >>> batch = augment(samples.take(indices), epoch=1, batch=0, samples=indices)  # doctest: +SKIP

    Raises:
        UserError: the data has no images, or masks that a change would not move.
    """

    def __init__(self, data: DataRef, seed: int, names: Sequence[str] = (), views: int = 1):
        fields = named_fields(data)
        self.images = [field for field in fields if field.kind == "image" and not field.is_target]
        self.masks = [field for field in fields if field.kind == "mask"]
        if names and not self.images:
            raise UserError(f"--train.augment changes images, and {data.name} has none.", "Leave it out.")
        for field in self.images:
            if names and field.dtype != "uint8":
                raise UserError(f"--train.augment changes uint8 images; {field.words()} is of another type.")
        both = [name for name, _ in map(split_strength, names) if name in BOTH_WAYS]
        if both and self.masks:
            raise UserError(f"--train.augment {both[0]} would not move the masks with the images.", "Leave it out.")
        self.augmentations = {
            field.name: Augmentation(_of_images(data, field), seed, names) for field in self.images if names
        }
        self.views = views

    def __call__(self, batch: Batch, epoch: int, number: int, samples: Tensor) -> Batch:
        """Return the changed batch, with its views if there are several.

        Args:
            number: number of the batch in its epoch.
            samples: numbers of the samples in the split, (N,), on the CPU.
        """
        if not self.augmentations and self.views == 1:
            return batch
        views = [self._view(batch.raw, epoch, number + VIEW_STRIDE * view, samples) for view in range(self.views)]
        first = views[0]
        return first if self.views == 1 else Batch(first.fields, first.raw, first.size, tuple(views))

    def _view(self, fields: Mapping[str, Tensor], epoch: int, number: int, samples: Tensor) -> Batch:
        changed = dict(fields)
        for name, augment in self.augmentations.items():
            changed[name], _ = augment((fields[name], fields[name]), epoch, number, samples)
        if self.augmentations:
            mover = next(iter(self.augmentations.values()))
            for mask in self.masks:
                changed[mask.name] = self._moved(mover, fields[mask.name], epoch, number, samples)
        return Batch.of(changed)

    def _moved(self, mover: Augmentation, mask: Tensor, epoch: int, number: int, samples: Tensor) -> Tensor:
        """Move masks (N, H, W) like the images; pixels that come in are ignored (255)."""
        shifted = (mask + 1)[:, None]  # 255, ignored, becomes 0, which comes in at the edges
        with nearest_neighbour():
            moved = mover.moved(shifted, epoch, number, samples)
        return moved[:, 0] - 1


def _of_images(data: DataRef, field: FieldRef) -> DataRef:
    """Return a description of the images alone, as ``Augmentation`` takes it."""
    return data.model_copy(update={"kind": fields.of_batch(field.kind), "shape": field.shape})
