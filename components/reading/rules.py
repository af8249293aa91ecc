"""Rules by which files become inputs: decided over the training data, recorded with it and with the ONNX model."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

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

    @classmethod
    def from_json(cls, text: str) -> "ReadingRules":
        """Parse the output of ``as_json``.

        Raises:
            ValueError, TypeError: the text is not such output.
        """
        rules = cls(**json.loads(text))
        if type(rules.top) is not int or not 1 <= rules.top <= TOP or rules.ground not in (None, *range(256)):
            raise ValueError(f"{text[:100]} holds no rules for images")
        if rules.text_per not in ("line", "file"):
            raise ValueError(f"unknown text_per {rules.text_per!r}")
        return rules


USUAL = ReadingRules()
"""Rules of data that decides nothing else."""
