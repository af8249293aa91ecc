"""A data set of named fields in memory, between its source and the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchmill.components import fields, files
from torchmill.components.batches.field_refs import FieldRef, inputs_of
from torchmill.components.data.content import digests_file
from torchmill.components.data.origins import write_origins
from torchmill.components.encoding.texts import TextEncoding, as_files


@dataclass(frozen=True, eq=False)
class FieldSplits:
    """The splits of a data set of named fields."""

    arrays: Mapping[str, Mapping[str, np.ndarray]]
    """Arrays (N, …) by split and name."""
    fields: tuple[FieldRef, ...]
    digests: Mapping[str, np.ndarray]
    """Digest of each sample's inputs by split, uint64 (N,)."""
    groups: np.ndarray | None
    """Digest of each training sample's group; None if each sample is a group of its own."""
    origins: Mapping[str, Sequence[str]]
    source: str
    notes: tuple[str, ...] = ()
    encoding: TextEncoding | None = None
    """Encoding of the inputs that are texts; None if there are none."""

    def facts(self) -> dict[str, object]:
        """Return the entries of the data set's description."""
        first = inputs_of(self.fields)[0]
        classes = [field for field in self.fields if field.is_target and field.size]
        names = classes[0].names or tuple(map(str, range(classes[0].size))) if len(classes) == 1 else ()
        sizes = {f"{split}_size": len(self.digests.get(split, ())) for split in ("train", "validation", "test")}
        return {
            "kind": fields.of_batch(first.kind if first.kind == "image" else "values"),
            "shape": first.shape,
            "classes": names,
            "field_refs": self.fields,
            "source": self.source,
            "notes": self.notes,
            **sizes,
        }

    def write(self, folder: Path) -> list[Path]:
        """Write an array for each field and split, digests, groups and origins; return the files."""
        written = []
        for split, arrays in self.arrays.items():
            for field in self.fields:
                written.append(folder / f"{split}_{field.file}.npy")
                files.write_array(written[-1], np.ascontiguousarray(arrays[field.name]))
            written.append(digests_file(folder, split))
            files.write_array(written[-1], self.digests[split])
            if origins := self.origins.get(split):
                written.append(write_origins(folder, split, origins))
        for name, content in as_files(self.encoding).items():
            written.append(folder / name)
            with files.new_file(written[-1]) as file:
                file.write(content.encode())
        if self.groups is not None:
            written.append(groups_file(folder))
            files.write_array(written[-1], self.groups)
        return written


def groups_file(folder: Path) -> Path:
    """Return the path of the groups of a data set's training samples."""
    return folder / "train_groups.npy"
