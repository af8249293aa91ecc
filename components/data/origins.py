"""Origins of samples, for example file names: a text file per split beside its arrays, a line per sample.

Origins inform people and decide nothing: the data's digest leaves them out.
"""

from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from torchmill.components.files import new_file


def origins_file(folder: Path, split: str) -> Path:
    """Return the path of a split's origins; the file is missing if samples have no names."""
    return folder / f"{split}_origins.txt"


def write_origins(folder: Path, split: str, names: Iterable[str]) -> Path:
    """Write a line per sample, in the order of the arrays; unprintable characters are escaped."""
    path = origins_file(folder, split)
    with new_file(path) as file:
        file.writelines(f"{_printable(name)}\n".encode() for name in names)
    return path


def read_origins(folder: Path, split: str, rows: Collection[int]) -> dict[int, str]:
    """Return the origins of some samples by their rows; empty without a file."""
    path = origins_file(folder, split)
    if not rows or not path.is_file():
        return {}
    chosen = set(rows)
    with path.open("rb") as file:
        lines = enumerate(islice(file, max(chosen) + 1))
        return {row: line.rstrip(b"\n").decode() for row, line in lines if row in chosen}


def _printable(name: str) -> str:
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
