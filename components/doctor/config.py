"""Settings of the check before training. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from torchmill.components.section import Section, switch_from_bool

Level = Literal["off", "quick", "full"]


class CheckConfig(Section):
    level: Annotated[Level, BeforeValidator(switch_from_bool)] = "quick"
    """How thoroughly the network is examined before it is trained: off, quick (seconds), full (overfits a batch,
    exports, checks gradients)."""
