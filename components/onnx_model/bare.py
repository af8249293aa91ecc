"""The inputs of a bare model: prepared by its own metadata, and of sizes that may be fixed. Imports no torch."""

from collections.abc import Mapping, Sequence

import numpy as np

from torchmill.components.onnx_model import names
from torchmill.components.state_files import parse_json


def is_bare(metadata: Mapping[str, str]) -> bool:
    """Return whether a model is a network alone."""
    return metadata.get(names.FORM) == names.BARE


def standardized(pixels: np.ndarray, metadata: Mapping[str, str]) -> np.ndarray:
    """Return uint8 pixels (N, C, H, W) of training's size as a bare model takes them: float32, standardised.

    Raises:
        KeyError: the metadata has no mean or deviation.
        Damaged: they are no numbers.
    """
    mean, std = (
        np.array(parse_json(metadata[key], tuple[float, ...]), np.float32)[:, None, None]
        for key in (names.MEAN, names.STD)
    )
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def prepared_inputs(inputs: np.ndarray, metadata: Mapping[str, str]) -> np.ndarray:
    """Return inputs as a model takes them: a bare one whose metadata has a mean takes standardised pixels."""
    return standardized(inputs, metadata) if is_bare(metadata) and names.MEAN in metadata else inputs


def filled(batch: np.ndarray, sizes: Sequence[int | None]) -> np.ndarray:
    """Return a batch filled up with zeros to the sizes that are fixed."""
    missing = [(0, max(0, (size or 0) - side)) for size, side in zip(sizes, batch.shape, strict=False)]
    return np.pad(batch, missing) if any(more for _, more in missing) else batch


def fixed_sizes(sides: Sequence[int | str | None]) -> list[int | None]:
    """Return the sizes of an input that are fixed, from its shape in onnxruntime; None for free ones."""
    return [side if isinstance(side, int) else None for side in sides]
