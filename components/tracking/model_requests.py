"""Requests of a run about its registered model, which the recorder answers: register, look up the champion, promote."""

import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from torchmill.components.errors import UserError
from torchmill.components.refs import ExportRef, RunRef
from torchmill.components.tracking.champions import ModelVersion
from torchmill.components.tracking.contests import Contest, Contests
from torchmill.components.tracking.recorder_process import Receipt, wait_for_answer
from torchmill.components.tracking.run_log import STORE_SECONDS, append

PROMOTION_SECONDS = 60.0
"""Longest wait for the champion's file, and for the alias."""


def register(run: RunRef, exported: ExportRef, registered_name: str, tags: Mapping[str, str]) -> str | None:
    """Register an exported model as a new version.

    Returns:
        The version; None if MLflow doesn't answer: it gets the model later.

    Raises:
        UserError: MLflow refuses the model.
    """
    paths = {"file": exported.onnx.path, "example": exported.example.path}
    ask = f"register {registered_name} {exported.onnx.sha256}"
    append(
        run,
        {
            "kind": "register",
            "ask": ask,
            "name": registered_name,
            **{name: os.path.relpath(path, run.folder) for name, path in paths.items()},
            "tags": dict(tags),
        },
    )
    answer = wait_for_answer(run.folder, ask, STORE_SECONDS)
    return None if answer is None else str(answer["version"])


NO_CONTESTS = Contests()


@dataclass(frozen=True)
class Standing:
    """How a version stands to the champion of its model."""

    champion: ModelVersion | None
    file: Path | None
    """ONNX file of the champion on this machine; None without a champion, or if the version is the champion."""
    was_champion: bool
    """True if the version was champion once, and is not any more."""
    trained_on: Path | None = None
    """File with the digests of the champion's training samples; None if its run has none, or there is no champion."""
    contests: Contests = NO_CONTESTS
    """Contests that test splits have decided for the model."""


def standing(run: RunRef, name: str, version: str) -> Standing | None:
    """Ask for the champion of a registered model and its file; None if MLflow doesn't answer.

    Raises:
        UserError: MLflow says no, or the file doesn't arrive.
    """
    ask = uuid.uuid4().hex
    deadline = time.time() + PROMOTION_SECONDS
    append(run, {"kind": "standing", "ask": ask, "name": name, "version": version, "until": deadline})
    answer = _wait_for_promotion(run, ask)
    if answer is None:
        return None
    champion = answer["champion"] and ModelVersion(**answer["champion"])
    file, trained_on = (answer.get(name) and Path(answer[name]) for name in ("file", "trained_on"))
    contests = Contests.from_json(answer.get("contests", ""))
    return Standing(champion, file, answer["was_champion"], trained_on, contests)


def promote(
    run: RunRef,
    version: str,
    name: str,
    *,
    champion: str | None,
    move: bool,
    tags: Mapping[str, str],
    contest: Contest | None = None,
) -> str:
    """Write a verdict's tags onto a version and the run; if the verdict says so, make the version champion.

    Args:
        champion: the version that the verdict compares with.
        move: make the version champion, if ``champion`` still is.
        contest: contest that decided, to be counted.

    Returns:
        "done"; "changed" if another version is champion by now; "pending" if MLflow doesn't answer: the recorder
        does the same later.

    Raises:
        UserError: MLflow says no.
    """
    ask = uuid.uuid4().hex
    order = {"name": name, "version": version, "champion": champion, "crown": move, "tags": dict(tags)}
    append(run, {"kind": "promote", "ask": ask, **order, "contest": asdict(contest) if contest else {}})
    answer = _wait_for_promotion(run, ask)
    return "pending" if answer is None else str(answer["state"])


def _wait_for_promotion(run: RunRef, ask: str) -> Receipt | None:
    answer = wait_for_answer(run.folder, ask, 2 * PROMOTION_SECONDS)
    if answer and answer["receipt"] == "declined":
        raise UserError(answer["message"])
    return answer
