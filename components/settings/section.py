"""Sections of a configuration, and values as the command line and YAML write them."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, ValidationInfo, model_validator

from torchmill.components.settings.options import Option

NOT_IN_KEY: dict[str, JsonValue] = {"decides": False}
"""Mark of a setting that does not change the result of its section's step."""


def _json_object(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except json.JSONDecodeError as error:
        examples = {"rules": '{"fc.*": "orthogonal"}', "lr_factors": '{"features.*": 0.1}'}
        example = examples.get(info.field_name or "", '{"width": 48}')
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1}); write it like '{example}'") from None


def _names(value: object) -> object:
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.strip("[]()").split(",") if part.strip() not in ("", "none")]


def none_from_text(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value


def auto_from_text(value: object) -> object:
    return None if isinstance(value, str) and value.lower() in ("auto", "none", "null") else value


def text_from_int(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def switch_from_bool(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value  # YAML reads on and off as these


JsonObject = Annotated[dict[str, Any], BeforeValidator(_json_object)]

Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class Section(BaseModel):
    """A part of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def options(self) -> Iterable[Option]:
        """Return the options that the settings name: their code is part of the fingerprint."""
        return ()


class Named(Section):
    """A section whose plain name stands for the whole: ``--data mnist`` is ``--data.name mnist``."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value
