"""A batch: named fields of some samples."""

import itertools
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch(Mapping[str, Tensor]):
    """Fields (N, …) of N samples by name.

    Example:
        >>> batch["image"].shape, batch.size  # doctest: +SKIP
        (torch.Size([64, 3, 96, 96]), 64)
    """

    fields: Mapping[str, Tensor]
    raw: Mapping[str, Tensor]
    """Fields as the data set stores them, not standardized."""
    size: int
    """Number of samples."""
    views: tuple["Batch", ...] = ()
    """Differently augmented versions, if the task asks for them."""

    @classmethod
    def of(cls, fields: Mapping[str, Tensor]) -> "Batch":
        """Return a batch of fields that are not standardized."""
        return cls(fields, fields, len(next(iter(fields.values()))))

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self.fields[name]
        except KeyError:
            raise KeyError(f"the batch has no field '{name}': it has {', '.join(self.fields)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    def replaced(self, fields: Mapping[str, Tensor]) -> "Batch":
        """Return a batch with other values of some fields."""
        return Batch(ChainMap(dict(fields), cast(Any, self.fields)), self.raw, self.size, self.views)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return a batch with a change to every field."""
        fields = {name: change(value) for name, value in self.fields.items()}
        raw = fields if self.raw is self.fields else {name: change(value) for name, value in self.raw.items()}
        views = tuple(view.changed(change) for view in self.views)
        return Batch(fields, raw, len(next(iter(fields.values()))), views)

    def split(self, parts: int) -> list["Batch"]:
        """Return parts whose sizes differ by one at most."""
        ends = [number * self.size // parts for number in range(parts + 1)]
        return [
            self.changed(lambda values, start=start, end=end: values[start:end])
            for start, end in itertools.pairwise(ends)
        ]
