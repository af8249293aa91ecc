"""Pictures of every file format and mode, upright and with all their levels, as the uint8 pixels that networks get."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
from PIL import Image, ImageOps

from torchmill.components.reading.rules import TOP, ReadingRules

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm"})

GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"})
WITH_OPACITY = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})

ORIENTATION = 0x0112
"""EXIF tag of the orientation; from 5 on, width and height are swapped."""
PHOTOMETRIC, SAMPLES_PER_PIXEL = 262, 277
"""TIFF tags."""
WHITE_IS_ZERO = 0

PILLOWS_LIMIT = 170_000_000
"""Largest image, in pixels, that Pillow itself opens, roughly."""

VANISHING = 16
"""Mean difference from the ground, of 255, below which nobody sees the visible part of a picture."""

OPAQUE_OR_NOT = 0.5
"""Share of pixels with no or full opacity from which the fourth channel of a TIFF is taken for opacity."""

GROUNDS = (255, 0, 128)
"""Grey levels behind transparent pixels, the first choice first."""

Channels = Literal[1, 3, 4]


class Traits(NamedTuple):
    """Facts about a picture that its header tells."""

    size: tuple[int, int]
    """Width and height of the upright picture."""
    is_grey: bool
    is_deep: bool
    """True if it has 16 bits per channel."""
    has_fourth: bool
    """True if it is a TIFF with a fourth channel, which may be opacity or something else."""
    has_opacity: bool
    frames: int
    """Number of frames or pages; the first is read."""
    dropped: int
    """Number of channels beyond those that are read."""


class Levels(NamedTuple):
    """Facts about a picture that only its pixels tell."""

    largest: int
    """Largest level of a 16-bit picture, before it is inverted; 0 for 8 bits."""
    is_transparent: bool
    vanishes: tuple[bool, ...]
    """True for each of the grounds on which its visible part can't be seen."""
    extremes: float
    """Share of pixels whose fourth channel is 0 or full; 1 without one."""


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, with all levels of its file."""

    pixels: "Image.Image | np.ndarray"
    """8 bits: modes L, RGB or RGBA. 16 bits: uint16 (H, W, C) with 1 to 4 channels."""
    is_inverted: bool = False
    """True for 16 bits that count from white down."""

    def levels(self) -> Levels:
        """Measure the levels."""
        array = np.asarray(self.pixels)
        array = array[..., None] if array.ndim == 2 else array
        is_deep = array.dtype == np.uint16
        colors = array[..., :-1] if array.shape[2] in (2, 4) else array
        largest = int(colors.max()) if is_deep else 0
        if colors is array:
            return Levels(largest, False, (False,) * len(GROUNDS), 1.0)
        opacity, full = array[..., -1], 65_535 if is_deep else 255
        extremes = float(((opacity == 0) | (opacity == full)).mean())
        if is_deep and extremes < OPAQUE_OR_NOT:
            largest = max(largest, int(opacity.max()))
        weights = opacity / full
        grey = colors.mean(2) * (255 / max(largest, 1) if is_deep else 1)
        visible = max(float(weights.sum()), 1e-9)
        vanishes = tuple(float((np.abs(grey - ground) * weights).sum()) / visible < VANISHING for ground in GROUNDS)
        return Levels(largest, bool((opacity < full).any()), vanishes, extremes)

    def as_pixels(self, channels: Channels, rules: ReadingRules) -> Image.Image:
        """Return the picture with 8 bits, in mode L or RGB; with four channels in mode RGBX."""
        opacity_top = rules.top if channels == 4 or rules.ground is None else TOP
        image = self.pixels if isinstance(self.pixels, Image.Image) else self._with_8_bits(rules.top, opacity_top)
        if channels == 4:
            # In mode RGBA, Pillow would weigh the colours by the fourth channel as it resizes.
            array = np.ascontiguousarray(np.asarray(image.convert("RGBA")))
            return Image.frombuffer("RGBX", image.size, array.tobytes(), "raw", "RGBX", 0, 1)
        if image.mode in ("RGBA", "LA"):
            layered = image.convert("RGBA")
            if rules.ground is None:
                image = Image.fromarray(np.asarray(layered)[..., :3])
            else:
                ground = Image.new("RGBA", layered.size, (rules.ground,) * 3)
                image = Image.alpha_composite(ground, layered).convert("RGB")
        mode = "L" if channels == 1 else "RGB"
        return image if image.mode == mode else image.convert(mode)

    def _with_8_bits(self, top: int, opacity_top: int) -> Image.Image:
        levels = cast(np.ndarray, self.pixels)
        count = levels.shape[2]
        colors = scaled(levels[..., : count - (count in (2, 4))], top)
        if self.is_inverted:
            colors = 255 - colors
        if count in (2, 4):
            colors = np.concatenate([colors, scaled(levels[..., -1:], opacity_top)], 2)
        return Image.fromarray(np.ascontiguousarray(colors[..., 0] if count == 1 else colors))


def scaled(levels: np.ndarray, top: int) -> np.ndarray:
    """Return levels from 0 to ``top`` as uint8 from 0 to 255; larger ones become 255."""
    numbers = np.minimum(levels, np.uint16(top)).astype(np.uint32)
    return ((numbers * 255 + top // 2) // top).astype(np.uint8)


def fitted(picture: Picture, shape: tuple[int, int, int], rules: ReadingRules) -> np.ndarray:
    """Return the pixels of a picture in a network's size: uint8 (C, H, W).

    The shorter side is resized, antialiased; the longer is cut equally on both ends.
    """
    channels, height, width = shape
    plain = picture.as_pixels(cast(Channels, channels), rules)
    if plain.size != (width, height):
        plain = ImageOps.fit(plain, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(plain)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def refusal(image: Image.Image, max_pixels: int) -> str:
    """Return in words why the header forbids decoding an image; empty if it doesn't."""
    width, height = image.size
    if width * height > max_pixels:
        return f"has {width:,} × {height:,} pixels, more than max_pixels, {max_pixels:,}"
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        return f"has pixels of 32 bits ({image.mode}), whose range is unknown"
    return ""


def traits(image: Image.Image) -> Traits:
    """Return the facts that the header of an image tells, before it is decoded."""
    width, height = image.size
    # A PNG may have EXIF after its pixels, for which Pillow would decode them. Of a TIFF, Pillow swaps the size itself.
    has_exif = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    is_turned = has_exif and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    samples = _tag(image, SAMPLES_PER_PIXEL)
    rawmode = _rawmode(image)
    has_fourth = samples == 4 and rawmode.startswith("RGB")
    read = 4 if has_fourth else len(image.getbands())
    return Traits(
        size=(height, width) if is_turned else (width, height),
        is_grey=image.mode in GREY_MODES or rawmode.startswith("LA"),
        is_deep=_is_deep(image),
        has_fourth=has_fourth,
        has_opacity=has_fourth or image.mode in WITH_OPACITY or "transparency" in image.info,
        frames=1 if image.format == "MPO" else getattr(image, "n_frames", 1),  # cameras add previews as frames
        dropped=max(0, samples - read),
    )


def decoded(image: Image.Image, side: int | None = None) -> Picture:
    """Decode an image, upright.

    Args:
        side: longest side that is needed; a JPEG is decoded at a half, a quarter or an eighth, at least twice as large.
    """
    if side and image.format == "JPEG" and image.mode in ("L", "RGB"):
        image.draft(image.mode, (2 * side, 2 * side))
    rawmode = _rawmode(image)
    inverted = _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO and ";I" not in rawmode.replace(";16", "")
    if _is_deep(image):
        return Picture(_deep(image, rawmode), inverted)
    if _tag(image, SAMPLES_PER_PIXEL) == 4 and rawmode == "RGBX":
        _decode_as(image, "RGBA", "RGBA")
    _load(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in WITH_OPACITY or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    return Picture(ImageOps.invert(image) if inverted and image.mode == "L" else image)


def _deep(image: Image.Image, rawmode: str) -> np.ndarray:
    """Return levels of 16 bits, uint16 (H, W, C).

    Pillow keeps the upper byte of colours of 16 bits. Read with the other byte order, it keeps the lower one.
    """
    if image.mode.startswith("I"):
        _load(image)
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright).astype(np.int64).clip(0, 65_535).astype(np.uint16)[..., None]
    with Image.open(getattr(image, "filename", "") or image.fp) as again:  # ty: ignore[missing-attribute]
        if rawmode.startswith("LA"):
            _decode_as(again, "RGBA", "RGBA")  # both bytes of the grey level, then both of the opacity
            bytes_HWC = np.asarray(ImageOps.exif_transpose(again)).astype(np.uint16)
            return bytes_HWC[..., ::2] * 256 + bytes_HWC[..., 1::2]
        layout, _, order = rawmode.partition(";16")
        is_premultiplied = layout == "RGBa"
        if layout in ("RGBX", "RGBa"):
            layout = "RGBA"
        _decode_as(again, layout, f"{layout};16{'L' if order == 'B' else 'B'}")
        lower = np.asarray(ImageOps.exif_transpose(again)).astype(np.uint16)
    _decode_as(image, layout, f"{layout};16{order}")
    levels = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16) * 256 + lower
    if is_premultiplied:
        opacity = np.maximum(levels[..., 3:], 1).astype(np.float64)
        levels[..., :3] = np.minimum(np.rint(levels[..., :3] * (TOP / opacity)), TOP)
    return levels


def _load(image: Image.Image) -> None:
    """Decode an image. A TIFF is not mapped from its file: Pillow then mixes up the sides of one that is turned."""
    if image.format != "TIFF":
        image.load()
        return
    file = image.filename  # ty: ignore[missing-attribute]
    image.filename = ""  # ty: ignore[missing-attribute]
    try:
        image.load()
    finally:
        image.filename = file  # ty: ignore[missing-attribute]


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or ";16" in _rawmode(image)


def _rawmode(image: Image.Image) -> str:
    """Return Pillow's name for the layout of the stored pixels; empty once they are decoded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _decode_as(image: Image.Image, mode: str, rawmode: str) -> None:
    """Make Pillow take the stored pixels for those of another layout."""
    image.tile = [  # ty: ignore[missing-attribute]
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in image.tile  # ty: ignore[missing-attribute]
    ]
    image._mode = mode


def _tag(image: Image.Image, number: int) -> int:
    """Return the value of a TIFF tag; -1 without it, and for other formats."""
    return image.tag_v2.get(number, -1) if image.format == "TIFF" else -1  # ty: ignore[missing-attribute]
