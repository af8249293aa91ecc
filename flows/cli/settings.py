"""An option for each setting of a run, made from the configuration's fields."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from torchmill.components import config as configuration
from torchmill.components.settings.section import Named
from torchmill.flows.cli import catalog

GENERAL = "run"
"""Heading of the settings that belong to no section."""
EXPLANATION = (
    "Each setting is also a key of a YAML file (--config FILE); options override it. A setting that takes JSON also "
    "takes its entries one by one: --model.args.width 48 is --model.args '{\"width\": 48}'."
)


def add_settings(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Add an option for each setting, and ``--config``; returns the settings' options by dotted name."""
    actions: dict[str, argparse.Action] = {}
    for name, (annotation, text, default) in configuration.fields().items():
        # --data.allow_leakage alone is yes.
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if annotation is bool else {}
        actions[name] = parser.add_argument(
            *_spellings(name), dest=name, metavar=_metavar(annotation), help=_help(annotation, text, default), **switch
        )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file of settings, which options override")
    return actions


def section_of(name: str) -> str:
    """Return the heading under which the help shows a setting."""
    return name.rpartition(".")[0] or GENERAL


def _spellings(name: str) -> list[str]:
    section, _, field = name.partition(".")
    is_short = field == "name" and issubclass(configuration.sections()[section], Named)
    return [f"--{section}"] * is_short + [f"--{name}"]


def _metavar(annotation: Any) -> str:
    kinds = {int: "N", float: "X", bool: "true|false", dict: "JSON", tuple: "A,B", str: "TEXT", Literal: "NAME"}
    parts = [annotation, get_origin(annotation), *get_args(annotation)]  # int | None is an int
    return next(word for part in parts for kind, word in kinds.items() if part is kind)


def _help(annotation: Any, text: str, default: Any) -> str:
    notes = [", ".join(map(str, get_args(annotation)))] if get_origin(annotation) is Literal else []
    if default is None or default == ():
        notes.append("default: none")
    elif default not in ("", {}):
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        notes.append(f"default: {json.dumps(shown) if isinstance(shown, bool) else shown}")
    described = text.rstrip(".") + (f" ({'; '.join(notes)})" if notes else "")
    return described.replace("%", "%%")


def spell(word: str) -> str:
    """Return an option with underscores, as its field is spelled.

    Example:
        >>> spell("--data.validation-fraction=0.2")
        '--data.validation_fraction=0.2'
    """
    option, equals, value = word.partition("=")
    if not option.startswith("--") or "." not in option:
        return word
    spelled = "--" + option[2:].replace("-", "_")
    field = _object_of(spelled)
    if field and not field.endswith("args"):  # the rest is a pattern of names
        spelled = spelled[: len(field) + 3] + option[len(field) + 3 :]
    return spelled + equals + value


def entry_options(words: Sequence[str]) -> Iterator[str]:
    """List the options that name an entry of a JSON object, as ``--model.args.width``."""
    for word in words:
        option = word.partition("=")[0]
        if option.startswith("--") and _object_of(option):
            yield option


def _object_of(option: str) -> str | None:
    """Return the setting, a JSON object, whose entry an option names."""
    return next((name for name in configuration.objects() if option.startswith(f"--{name}.")), None)


def read_config(options: argparse.Namespace) -> configuration.RunConfig:
    """Make the configuration that a command line asks for.

    Raises:
        ConfigError: a name, a value or the file is wrong.
    """
    values = {name: value for name, value in vars(options).items() if value is not None}
    objects = tuple(f"{name}." for name in configuration.objects())
    chosen = {name: values[name] for name in configuration.fields() if name in values}
    chosen |= {name: value for name, value in values.items() if name.startswith(objects)}
    config = configuration.load(options.config, chosen)
    catalog.check_arguments(config)
    return config
