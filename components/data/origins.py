"""Where the samples of a prepared data set come from: a text file beside its arrays, a line for each of a split.

It names files to people and decides nothing: the digest of the data is without it.
"""

from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from torchmill.components.data import disk


def origins_file(folder: Path, split: str) -> Path:
    """The file with the names of a split's samples; there is none where only their rows are known."""
    return folder / f"{split}_origins.txt"


def write_origins(folder: Path, split: str, names: Iterable[str]) -> Path:
    """Write a line for each sample, in the order of the arrays; characters that can't be shown are escaped."""
    path = origins_file(folder, split)
    with disk.new_file(path) as file:
        file.writelines(f"{_shown(name)}\n".encode() for name in names)
    return path


def read_origins(folder: Path, split: str, rows: Collection[int]) -> dict[int, str]:
    """Give the names of some samples by their rows; line by line, for there may be millions. Empty without a file."""
    path = origins_file(folder, split)
    if not rows or not path.is_file():
        return {}
    wanted = set(rows)
    with path.open("rb") as file:
        lines = enumerate(islice(file, max(wanted) + 1))
        return {row: line.rstrip(b"\n").decode() for row, line in lines if row in wanted}


def _shown(name: str) -> str:
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
