"""Model versions, the references that name them, and the history of a model's champions. Imports no MLflow."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchmill.components.errors import UserError, nearest
from torchmill.components.state_files import Damaged, parse_json
from torchmill.components.tracking.journal import timestamp

CHAMPION, CHALLENGER = "champion", "challenger"
"""Aliases in the registry: the version to use, and the version that was registered last."""

MAX_REIGNS = 40
"""Number of reigns that a history keeps: MLflow's tags take 5,000 characters."""


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    folder_uri: str = ""
    """Address of the folder with the version's files; empty if it was not looked up."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version}"


def find_version(versions: Sequence[ModelVersion], reference: str) -> ModelVersion:
    """Return the version that a reference names.

    Args:
        versions: all registered versions.
        reference: NAME@ALIAS, NAME@NUMBER or NAME/NUMBER. NAME alone is its champion; ``champion`` or ``challenger``
            alone is enough if a single model has one.

    Raises:
        UserError: no such model, version or alias exists; or several models have a champion.

    Example:
        >>> str(find_version(versions, "digits-cnn@champion"))
        'digits-cnn version 7'
    """
    name, _, label = reference.replace("/", "@", 1).partition("@")
    names = sorted({version.name for version in versions})
    if not label and name in (CHAMPION, CHALLENGER) and name not in names:
        return _only_version_with(name, versions)
    candidates = [version for version in versions if version.name == name]
    if not candidates:
        remedy = nearest(name, names) or "`torchmill train` registers one."
        raise UserError(f"There is no registered model '{name}'.", remedy)
    label = label or CHAMPION
    for version in candidates:
        if label in (version.version, *version.aliases):
            return version
    labels = [
        *(version.version for version in candidates),
        *(alias for version in candidates for alias in version.aliases),
    ]
    subject = f"version {label}" if re.fullmatch(r"\d+", label) else label
    raise UserError(f"{name} has no {subject}.", f"It has: {', '.join(labels)}.")


def _only_version_with(alias: str, versions: Sequence[ModelVersion]) -> ModelVersion:
    holders = [version for version in versions if alias in version.aliases]
    if not holders:
        raise UserError(f"There is no {alias}: no model is registered so.", "`torchmill models` lists them.")
    if len(holders) > 1:
        choices = " or ".join(f"{version.name}@{alias}" for version in holders[:5])
        raise UserError(f"There are {len(holders)} models with a {alias}.", f"Say which: {choices}.")
    return holders[0]


@dataclass(frozen=True)
class Reign:
    """A version that became champion."""

    version: str
    time: str
    why: str
    intended: bool = False
    """True before the alias is set; whether the move succeeded, the alias says."""


@dataclass(frozen=True)
class Champions:
    """The champions of a model, in order. A tag of the registered model stores them.

    A move takes three writes: the intended reign, the alias, the reign as done. A kill in between leaves one champion,
    and the next reader compares the intention with the alias.
    """

    reigns: tuple[Reign, ...] = ()

    @classmethod
    def from_json(cls, text: str | None) -> "Champions":
        """Parse the tag; a missing or damaged one is an empty history."""
        try:
            return cls(parse_json(text or "[]", tuple[Reign, ...]))
        except Damaged:
            return cls()

    def as_json(self) -> str:
        """Return the tag's text, with the latest reigns."""
        reigns = [{name: value for name, value in vars(reign).items() if value is not False} for reign in self.reigns]
        return json.dumps(reigns[-MAX_REIGNS:], separators=(",", ":"))

    def reconciled(self, champion: str | None) -> "Champions":
        """Return the history that agrees with the alias, whether a move was cut off or the alias was set by hand."""
        reigns = self.reigns
        if reigns and reigns[-1].intended:
            has_moved = reigns[-1].version == champion
            reigns = (*reigns[:-1], replace(reigns[-1], intended=False)) if has_moved else reigns[:-1]
        if champion and (not reigns or reigns[-1].version != champion):
            reigns = (*reigns, Reign(champion, timestamp(), "set by hand"))
        return Champions(reigns)

    def with_intention(self, version: str, why: str) -> "Champions":
        """Return the history with a reign that is about to begin."""
        return Champions((*self.reigns, Reign(version, timestamp(), why, intended=True)))

    def predecessor(self, champion: str | None, existing: Collection[str]) -> str | None:
        """Return the latest champion but this one whose version still exists."""
        for reign in reversed(self.reigns):
            if reign.version != champion and reign.version in existing:
                return reign.version
        return None

    def __contains__(self, version: object) -> bool:
        return any(reign.version == version and not reign.intended for reign in self.reigns)
