"""Settings of evaluation and promotion. Imports no torch."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from torchmill.components.settings.section import Section, switch_from_bool


class EvaluateConfig(Section):
    batch_size: int = Field(256, ge=1, le=1_000_000)
    """Samples per forward pass; decides speed, not results."""


class PromoteConfig(Section):
    mode: Annotated[Literal["auto", "off"], BeforeValidator(switch_from_bool)] = "auto"
    """Whether a registered model is compared with the champion and takes its place where it is as good: auto or off."""
    margin: float = Field(0.005, gt=0, lt=1)
    """So much worse than the champion, by the test's measure, it must surely not be: 0.005 is half a percentage point
    of accuracy."""
    confidence: float = Field(0.95, ge=0.5, lt=1)
    """How sure that is to be: the level of a one-sided interval, for all contests on one test split together."""
