"""A survey of a data set's pictures: it decides their channels, depth and ground for all of them together."""

from collections.abc import Sequence
from typing import Literal

from torchmill.components.errors import UserError
from torchmill.components.reading.pictures import GROUNDS, OPAQUE_OR_NOT, Channels, Levels, Traits
from torchmill.components.reading.rules import TOP, WHITE, ReadingRules

Colors = Literal["auto", "grey", "rgb", "rgba"]

FEW_VANISH = 0.01
"""Share of transparent pictures that may vanish on white."""

CHANNELS: dict[str, Channels] = {"grey": 1, "rgb": 3, "rgba": 4}
GROUND_NAMES = {255: "white", 0: "black", 128: "grey", None: "none"}


def full_scale(largest: int) -> int:
    """Return the largest level of the sensor whose levels reach ``largest``; depths are 8, 10, 12, 14 or 16 bits.

    Example:
        >>> full_scale(2581)
        4095
    """
    return (1 << max(8, 2 * -(-largest.bit_length() // 2))) - 1


class Survey:
    """Facts about all pictures of a data set.

    Example:
        >>> survey = Survey()
        >>> survey.add(traits(image), decoded(image).levels())  # doctest: +SKIP
        >>> channels, rules = survey.decide("auto", "folder")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self.traits: list[Traits] = []
        self.levels: list[Levels] = []
        self.fourth: list[Levels] = []
        """Levels of TIFFs with a fourth channel."""

    def add(self, traits: Traits, levels: Levels | None) -> None:
        """Add a picture; without levels if they were not measured."""
        self.traits.append(traits)
        if levels:
            (self.fourth if traits.has_fourth else self.levels).append(levels)

    def decide(self, colors: Colors, place: str, bits: int | None = None) -> tuple[Channels, ReadingRules]:
        """Return the channels of all pictures, and the rules to read them by.

        Args:
            bits: depth of the 16-bit pictures; without it, the depth that their largest level needs.

        Raises:
            UserError: some pictures have a fourth channel that is no opacity, and others have none.
        """
        channels = self._channels(colors, place)
        ground = None if self._fourth_is_band() else GROUNDS[self._ground()]
        top = (1 << bits) - 1 if bits else self._top()
        return channels, ReadingRules(top, WHITE if channels == 4 else ground)

    def _fourth_is_band(self) -> bool:
        extremes = [levels.extremes for levels in self.fourth]
        return bool(extremes) and sum(extremes) / len(extremes) < OPAQUE_OR_NOT

    def _channels(self, colors: Colors, place: str) -> Channels:
        if colors != "auto":
            return CHANNELS[colors]
        if self._fourth_is_band():
            count = sum(traits.has_fourth for traits in self.traits)
            if count < len(self.traits):
                raise UserError(
                    f"{place}: {count:,} of {len(self.traits):,} images have a fourth channel that is no opacity, and "
                    "the others have none.",
                    "Set colors in --data.args: rgb leaves it out, rgba keeps it and makes it full for the others.",
                )
            return 4
        return 1 if all(traits.is_grey for traits in self.traits) else 3

    def _top(self) -> int:
        largest = max((levels.largest for levels in (*self.levels, *self.fourth)), default=0)
        return full_scale(largest) if largest else TOP

    def _transparent(self) -> Sequence[Levels]:
        return [levels for levels in (*self.levels, *self.fourth) if levels.is_transparent]

    def _ground(self) -> int:
        """Return the position of the first ground on which the fewest transparent pictures vanish."""
        vanishing = [sum(levels.vanishes[number] for levels in self._transparent()) for number in range(len(GROUNDS))]
        if vanishing[0] <= FEW_VANISH * len(self._transparent()):
            return 0
        return vanishing.index(min(vanishing))

    def notes(self, channels: Channels, rules: ReadingRules) -> list[str]:
        """Return in words how the pictures are read, for a user to check."""
        total, notes = len(self.traits), []
        if deep := sum(traits.is_deep for traits in self.traits):
            largest = max((levels.largest for levels in (*self.levels, *self.fourth)), default=0)
            notes.append(
                depth_note(_of(deep, total), largest, rules.top)
                + (", and images of 8 bits stay as they are" if deep < total else "")
            )
        fourth = sum(traits.has_fourth for traits in self.traits)
        if fourth and self._fourth_is_band():
            fate = "is kept" if channels == 4 else "is left out"
            notes.append(f"{_of(fourth, total)} have a fourth channel that is no opacity: it {fate}")
        elif channels != 4 and (transparent := self._transparent()):
            vanishing = sum(levels.vanishes[0] for levels in transparent)
            why = "" if rules.ground == WHITE else f", since {_of(vanishing, len(transparent))} would vanish on white"
            notes.append(f"transparent images lie on {GROUND_NAMES[rules.ground]}{why}")
        if frames := sum(traits.frames > 1 for traits in self.traits):
            notes.append(f"{_of(frames, total)} have several frames or pages: the first is read")
        if dropped := sum(traits.dropped > 0 for traits in self.traits):
            notes.append(f"{_of(dropped, total)} have channels beyond {channels}, which are left out")
        return notes


def depth_note(images: str, largest: int, top: int) -> str:
    """Return in words how levels of 16 bits are read."""
    return (
        f"{images} have 16 bits, with levels up to {largest:,}: 0 to {top:,} ({top.bit_length()} bits) become 0 to 255"
    )


def _of(count: int, total: int) -> str:
    return f"all {total:,} images" if count == total else f"{count:,} of {total:,} images"
