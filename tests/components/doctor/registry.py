"""Registry of test networks: faulty ones with their verdicts, and sound ones with their warnings."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn


@dataclass
class Fault:
    """A network with one fault, and the verdict that the doctor must give."""

    name: str
    make: Callable[[], nn.Module]
    check: str
    layer: str = ""
    verdict: str = "fail"
    inputs: str = "features"
    loss: str = "cross_entropy"
    level: str = "quick"
    more: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``check_input``."""
    alone: bool = True
    """True if no other check fails."""


@dataclass
class Sound:
    """A network without a fault, and the checks that may warn nevertheless."""

    name: str
    make: Callable[[], nn.Module]
    inputs: str = "features"
    loss: str = "cross_entropy"
    warns: set[str] = field(default_factory=set)
    """Checks that may warn."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``check_input``."""


_faults: list[Fault] = []
_sound: list[Sound] = []


def fault(check: str, layer: str = "", verdict: str = "fail", **more: Any):
    """Register the class or function below as the maker of a faulty network."""

    def register(make):
        _faults.append(Fault(make.__name__.strip("_").lower(), make, check, layer, verdict, **more))
        return make

    return register


def sound(**more: Any):
    """Register the class or function below as the maker of a sound network."""

    def register(make):
        _sound.append(Sound(make.__name__.lower(), make, **more))
        return make

    return register


def faults() -> list[Fault]:
    """Return all faulty networks in ``faulty/``."""
    _import_all("faulty")
    return _faults


def sound_networks() -> list[Sound]:
    """Return all sound networks in ``sound/``."""
    _import_all("sound")
    return _sound


def _import_all(folder: str) -> None:
    for module in pkgutil.iter_modules([str(Path(__file__).parent / folder)]):
        importlib.import_module(f"tests.components.doctor.{folder}.{module.name}")
