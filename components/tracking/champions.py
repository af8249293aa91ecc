"""Model versions, which of them is champion, and which were: what is said of them, without asking MLflow."""

import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchmill.components.errors import UserError, nearest

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases: the version that is to be used, and the one that was registered last."""

REMEMBERED = 40
"""Champions at most in a history, the latest: MLflow takes 5,000 characters."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered model in one of its versions."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    place: str = ""
    """Address of the folder with its files, where it is known."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


@dataclass(frozen=True)
class Reign:
    """A version that became champion."""

    version: str
    time: str
    why: str
    intended: bool = False
    """It is to become champion; whether it did, the alias tells."""


@dataclass(frozen=True)
class Champions:
    """Who was champion, one after the other; kept as a tag of the registered model.

    A move is written down as intended, then the alias is set, then it is written down as done: whoever is killed in
    between leaves one champion, and the next one who comes sees whether the alias was set.
    """

    reigns: tuple[Reign, ...] = ()

    @classmethod
    def read(cls, text: str | None) -> "Champions":
        """Read the tag; one that is damaged or was written by somebody else is as good as none."""
        try:
            return cls(tuple(Reign(**one) for one in json.loads(text or "[]")))
        except (ValueError, TypeError):
            return cls()

    def text(self) -> str:
        told = [{key: value for key, value in vars(one).items() if value is not False} for one in self.reigns]
        return json.dumps(told[-REMEMBERED:], separators=(",", ":"))

    def settled(self, champion: str | None) -> "Champions":
        """Make it agree with the alias: what was intended happened or did not; others may have set the alias, too."""
        reigns = self.reigns
        if reigns and reigns[-1].intended:
            happened = reigns[-1].version == champion
            reigns = (*reigns[:-1], replace(reigns[-1], intended=False)) if happened else reigns[:-1]
        if champion and (not reigns or reigns[-1].version != champion):
            reigns = (*reigns, Reign(champion, _now(), "set by hand"))
        return Champions(reigns)

    def intending(self, version: str, why: str) -> "Champions":
        return Champions((*self.reigns, Reign(version, _now(), why, intended=True)))

    def before(self, champion: str | None, there: Collection[str]) -> str | None:
        """The version that was champion before this one, of those that are still there."""
        return next(
            (one.version for one in reversed(self.reigns) if one.version != champion and one.version in there), None
        )

    def __contains__(self, version: object) -> bool:
        return any(one.version == version and not one.intended for one in self.reigns)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def find(versions: Sequence[ModelVersion], reference: str) -> ModelVersion:
    """Find what NAME, NAME@champion, NAME@7, NAME/7 or champion alone mean; NAME alone is its champion.

    Raises:
        UserError: there is no such model, version or alias; or there are several champions, of different models.
    """
    name, _, which = reference.replace("/", "@", 1).partition("@")
    names = sorted({one.name for one in versions})
    if not which and name in (CHAMPION, CHALLENGER) and name not in names:
        found = [one for one in versions if name in one.aliases]
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"There is no {name}: no model is registered so.", "`torchmill models` lists them.")
        several = " or ".join(f"{one.name}@{name}" for one in found[:5])
        raise UserError(f"There are {len(found)} models with a {name}.", f"Say which: {several}.")
    held = [one for one in versions if one.name == name]
    if not held:
        remedy = nearest(name, names) or "`torchmill train` registers one."
        raise UserError(f"There is no registered model '{name}'.", remedy)
    which = which or CHAMPION
    for one in held:
        if which in (one.version, *one.aliases):
            return one
    known = [*(one.version for one in held), *(alias for one in held for alias in one.aliases)]
    what = f"version {which}" if re.fullmatch(r"\d+", which) else which
    raise UserError(f"{name} has no {what}.", f"It has: {', '.join(known)}.")
