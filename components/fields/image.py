"""Images: uint8 pixels (N, C, H, W)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from torchmill.components.fields import CardCode, Sums
from torchmill.components.reading.rules import TOP, USUAL, WHITE, ReadingRules

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from torchmill.components.batches.field_refs import FieldKind
    from torchmill.components.data.samples import Samples
    from torchmill.components.encoding.columns import Columns
    from torchmill.components.encoding.vocabulary import Vocabulary

NAME = "images"
ARGUMENTS = ("in_channels", "image_size", "image_height", "image_width")

INKED = 64
"""Difference from the background, of 255, from which a pixel is part of the picture."""


READ = """\
# Not for colours of 16 bits, and TIFFs of four channels or that count from white: `torchmill predict` reads those.
def read(file):  # upright, on a plain ground, scaled and cut: as for training
    image = Image.open(file)
    if image.format == "JPEG" and image.mode in ("L", "RGB"):
        image.draft(image.mode, ($side, $side))  # faster
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits
        levels = np.asarray(image).astype(np.int64).clip(0, $top)
        image = Image.fromarray(((levels * 255 + $half) // $top).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = $painted
    if image.mode not in ("1", "L"):
        image = image.convert("RGB")
    image = ImageOps.fit(image.convert("$mode"), $size, Image.Resampling.BILINEAR)
    return np.asarray(image).reshape$sides  # height, width, channels
"""
"""Python that reads files as ``components.reading.pictures`` does, for those who have Pillow alone."""

ARRAYS = """\
def read(pixels):
    return np.asarray(pixels, np.uint8).reshape$sides  # height, width, channels
"""


class Image:
    name = NAME
    samples = "images"
    shape_words = "images of (channels, height, width)"
    pool_over = "all other dimensions"
    feature_word = "channel"

    is_picture, is_sequence, can_mix = True, False, True
    padding = None
    unit = 255.0  # mean and deviation are those of pixels scaled to 0…1

    batch_name: str = "image"
    batch_kind: "FieldKind" = "image"
    onnx_input, onnx_type = "pixels", "tensor(uint8)"
    bare_input = "images"
    dynamic_axes = ("batch",)

    def arguments(self, shape: tuple[int, ...], vocabulary_size: int) -> dict[str, int]:
        channels, height, width = shape
        return {"in_channels": channels, "image_size": height, "image_height": height, "image_width": width}

    # Data set

    def recognizes(self, inputs: np.ndarray, has_vocabulary: bool) -> bool:
        return inputs.dtype == np.uint8 and not has_vocabulary

    def faults(self, inputs: np.ndarray, vocabulary_size: int | None) -> list[str]:
        if inputs.dtype != np.uint8 or inputs.ndim != 4 or 0 in inputs.shape:
            return [f"inputs are {inputs.dtype} {inputs.shape}, not uint8 (N, C, H, W)"]
        return []

    def statistics(self, inputs: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation per channel of pixels scaled to 0…1.

        They are counted in whole numbers, so that the result is the same on every machine.
        """
        means, deviations = [], []
        for channel in range(inputs.shape[1]):
            counts = np.zeros(256, np.int64)
            for start in range(0, len(inputs), 4096):  # bincount makes an int64 of every pixel
                counts += np.bincount(inputs[start : start + 4096, channel].ravel(), minlength=256)
            pixels = int(counts.sum())
            total = sum(value * int(count) for value, count in enumerate(counts))
            squares = sum(value * value * int(count) for value, count in enumerate(counts))
            means.append(total / (255 * pixels))
            deviations.append((squares * pixels - total * total) ** 0.5 / (255 * pixels))
        return tuple(means), tuple(deviations)

    def read_encoding(self, folder: Path) -> None:
        return None

    def blank(self, shape: tuple[int, ...], samples: int) -> "Tensor":
        import torch

        return torch.zeros(samples, *shape)

    # Evaluation

    def measures(self, samples: "Samples") -> Iterator[tuple[str, str, np.ndarray]]:
        bright, ink = [], []
        for images_NCHW, _ in samples.batches(1024):
            pixels = images_NCHW.cpu().numpy()
            bright.append(pixels.mean((1, 2, 3)) / 2.55)
            # The background is the median of the edge: two rows and two columns.
            columns = pixels[:, :, :, [0, -1]].reshape(len(pixels), -1)
            edge = np.concatenate([pixels[:, :, [0, -1]].reshape(len(pixels), -1), columns], 1)
            background = np.median(edge, axis=1).astype(np.int16)
            apart = np.abs(pixels.astype(np.int16) - background[:, None, None, None]) > INKED
            ink.append(100 * apart.mean((1, 2, 3)))
        yield "brightness", " %", np.concatenate(bright)
        yield "ink", " % of the picture", np.concatenate(ink)

    # ONNX model

    def describe_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        takes = (
            "uint8 pixels 0-255, (batch, height, width, channels) or (batch, channels, height, width), of any height "
        )
        takes += "and width, " + ("of four channels" if shape[0] == 4 else "grey, RGB or RGBA")
        if rules.top != TOP:
            takes += f"; of 16 bits, the levels 0 to {rules.top} scaled to these"
        ground = {None: "without the fourth channel, ", WHITE: ""}.get(rules.ground, f"on a ground of {rules.ground}, ")
        return takes, f"{ground}scaled as Pillow's ImageOps.fit does with BILINEAR to {shape[2]}x{shape[1]}"

    def describe_bare_input(
        self, shape: tuple[int, ...], columns: "Columns | None" = None, rules: ReadingRules = USUAL
    ) -> tuple[str, str]:
        channels, height, width = shape
        colours = {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
        _, prepares = self.describe_input(shape, columns, rules)
        return (
            f"float32 (batch, {channels}, {height}, {width}), {colours}: (pixels / 255 - mean) / std",
            f"none: outside, uint8 pixels have to be {prepares}, and then standardised",
        )

    def preprocessing(
        self,
        shape: tuple[int, ...],
        vocabulary_size: int,
        rules: ReadingRules = USUAL,
        columns: "Columns | None" = None,
    ) -> "ModelProto":
        from torchmill.components.onnx_graph.pictures import MOST_VALUES, pictures
        from torchmill.components.onnx_graph.refusals import saying

        channels, height, width = shape
        counts = "1, 3 or 4 channels" if channels in (1, 3) else f"{channels} channels"
        words = (
            f"pixels must be (N, height, width, channels) or (N, channels, height, width) of {counts}, not both at "
            f"once, and between 1 and {MOST_VALUES:,} values"
        )
        return saying(pictures(channels, height, width, rules.ground).to_model_proto(), words)

    def card_code(self, shape: tuple[int, ...], rules: ReadingRules, columns: "Columns | None") -> CardCode:
        channels, height, width = shape
        sides = (height, width, channels)
        if channels not in (1, 3):
            code = Template(ARRAYS).substitute(sides=sides)
            return CardCode(code, "enumerate(np.load(sys.argv[1]), 1)", "pixels.npy")
        ground = f'Image.alpha_composite(Image.new("RGBA", image.size, ({rules.ground},) * 3), image)'
        code = Template(READ).substitute(
            side=2 * max(height, width),
            top=rules.top,
            half=rules.top // 2,
            painted=ground if rules.ground is not None else "Image.fromarray(np.asarray(image)[..., :3])",
            mode="L" if channels == 1 else "RGB",
            size=(width, height),
            sides=sides,
        )
        return CardCode(code, "zip(sys.argv[1:], sys.argv[1:])", "photo.jpg other.png")

    # Predictions

    def batch(self, samples: Sequence[Any], vocabulary: "Vocabulary | None") -> np.ndarray:
        return np.stack(samples)

    def batch_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def sums(self, inputs: np.ndarray, columns: "Columns | None") -> Sums:
        from torchmill.components.metrics.histogram import histogram

        flat = inputs.reshape(*inputs.shape[:2], -1)
        # By counts of values: exact, and several times faster than floats.
        counts = np.stack([np.bincount(flat[:, c].ravel(), minlength=256) for c in range(flat.shape[1])])
        values = np.arange(256) / 255
        return {
            "values": int(counts[0].sum()),
            "sum": (counts @ values).tolist(),
            "squares": (counts @ values**2).tolist(),
            "brightness": histogram(flat.mean((1, 2)) / 255),
        }

    def drift(self, total: Mapping[str, Any]) -> dict[str, Any]:
        return {}
