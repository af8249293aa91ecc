"""Rules for reading files: decided over the training data, recorded with it and with the ONNX model."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

from torchmill.components.state_files import Damaged, parse_json

TOP = 65_535
"""Largest level of 16 bits."""

WHITE = 255


@dataclass(frozen=True)
class ReadingRules:
    """Rules that training and prediction share."""

    top: int = TOP
    """Level of 16-bit images that becomes 255; 8-bit images stay as they are."""
    ground: int | None = WHITE
    """Grey level behind transparent pixels; None if the fourth channel is no opacity and is left out."""
    text_per: Literal["line", "file"] = "line"
    """Unit of a text file: each line is a text, or the whole file is one."""

    def as_json(self) -> str:
        """Return the rules as JSON."""
        return json.dumps(dataclasses.asdict(self))

    def unlike(self, data: "ReadingRules") -> str:
        """Return in words why pixels of data that was read by other rules don't fit; empty if they do."""
        if self.top == data.top:
            return ""
        return (
            f"reads 16-bit images up to the level {self.top:,}, not up to {data.top:,} "
            f"(--data.args.bits {self.top.bit_length()} sets that)"
        )

    @classmethod
    def from_json(cls, text: str) -> "ReadingRules":
        """Parse the output of ``as_json``.

        Raises:
            Damaged: the text is no such output.
        """
        rules = parse_json(text, cls)
        if not 1 <= rules.top <= TOP or rules.ground not in (None, *range(256)):
            raise Damaged(f"{text[:100]} holds no rules for images")
        return rules


USUAL = ReadingRules()
"""Rules of data that decides nothing else."""
