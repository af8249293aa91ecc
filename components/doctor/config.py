"""Settings of the check before training. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from torchmill.components.settings.section import Section, switch_from_bool

Level = Literal["off", "quick", "full"]


class CheckConfig(Section):
    level: Annotated[Level, BeforeValidator(switch_from_bool)] = "quick"
    """Thoroughness of the check before training: off, quick (seconds), or full (also overfits a batch, exports the
    network and runs it in float64)."""
