"""The champion of a registered model: after a training, `torchmill promote` and `torchmill rollback`."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torchmill.components import tracking
from torchmill.components.data.config import DataConfig, data_identity
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.noninferiority import Verdict
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.refs import DataRef, ExportRef, PromotionRef, RunRef
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.components.tracking.champions import CHALLENGER, CHAMPION, ModelVersion, find_version
from torchmill.components.tracking.contests import Contest, Contests
from torchmill.components.tracking.model_requests import Standing
from torchmill.components.wording import count
from torchmill.flows.recipes import fetch_recipe

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger("torchmill")

SAME_MODEL = "it is the same model as the champion"
ATTEMPTS = 5
"""Attempts before giving up if the champion keeps changing."""

UNANSWERED = Verdict("pending", "MLflow does not answer")


def decide(
    config: PromoteConfig, name: str, version: str, model: ExportRef, data: DataRef, run: RunRef
) -> tuple[Verdict, str | None]:
    """Compare a run's model version with the champion and record the verdict.

    Returns:
        The verdict, and the version that is the champion afterwards.

    Raises:
        UserError: MLflow says no.
    """
    champion: str | None = None
    for _ in range(ATTEMPTS):
        standing = tracking.standing(run, name, version) if version.isdecimal() else None
        if standing is None:  # or MLflow hasn't numbered the version yet
            tracking.log_tags(run, UNANSWERED.tags())
            return UNANSWERED, None
        champion = standing.champion.version if standing.champion else None
        contest = _contest(standing.champion, model.onnx.sha256, data) if standing.champion else None
        verdict = _judge(standing, name, version, config, model, data, contest)
        tags = tags_of(verdict, run.run_id, standing.champion, data.sha256)
        if champion == version:  # its tags say already how it became the champion
            tracking.log_tags(run, tags)
            return verdict, champion
        crowned = verdict.outcome == "promoted"
        decided = contest if verdict.comparison else None
        match tracking.promote(run, version, name, champion=champion, move=crowned, tags=tags, contest=decided):
            case "done":
                return verdict, version if crowned else champion
            case "pending":
                return Verdict("pending", f"{verdict.outcome}, when MLflow answers: {verdict.reason}"), champion
    verdict = Verdict("pending", "another version became the champion during each comparison")
    tracking.log_tags(run, verdict.tags())
    return verdict, champion


def _judge(
    standing: Standing,
    name: str,
    version: str,
    config: PromoteConfig,
    model: ExportRef,
    data: DataRef,
    contest: Contest | None = None,
) -> Verdict:
    from torchmill.components.evaluation.comparison.champion import compare_with_champion, gates_of
    from torchmill.components.evaluation.comparison.field_champion import compare_field_models

    champion = standing.champion
    if champion is None:
        return Verdict("promoted", f"there was no champion{_former_name(name, data)}")
    if champion.version == version:
        return Verdict("promoted", "it is the champion already")
    if refusal := _of_other_data(champion, data_identity(data.name), data.sha256):
        return Verdict("kept", refusal)
    if standing.was_champion:
        return Verdict("kept", "it was the champion before and lost its place")
    if champion.tags.get("onnx.sha256") == model.onnx.sha256:
        return Verdict("kept", SAME_MODEL)
    assert standing.file
    trained_on, refusal = _trained_on(champion, standing.trained_on, data.sha256)
    if refusal:
        return Verdict("kept", refusal)
    gates = gates_of(model.report.path)
    number = standing.contests.number(contest) if contest else 1
    compare = compare_field_models if data.goal else compare_with_champion
    verdict = compare(model.onnx.path, standing.file, data, config, gates, trained_on, number)
    return _with_data_note(verdict, champion, data.sha256)


def _contest(champion: ModelVersion, onnx_sha256: str, data: DataRef) -> Contest:
    """Return the contest of a model with the champion, as it is counted."""
    from torchmill.components.data.content import read_digests

    theirs = champion.tags.get("onnx.sha256", str(champion))
    return Contest.of(theirs, onnx_sha256, read_digests(data, "test").tolist(), data.sha256)


def _trained_on(champion: ModelVersion, file: Path | None, data_sha256: str) -> "tuple[np.ndarray | None, str]":
    """Return the digests of a champion's training samples, or the reason why they are unknown.

    None stands for the challenger's own data.

    Args:
        file: the digests that the champion's run has recorded; earlier versions recorded none.
    """
    from torchmill.components.data.content import recorded_digests

    digests = recorded_digests(file) if file else None
    if digests is not None or champion.tags.get("data.sha256") == data_sha256:
        return digests, ""
    run = f" (config.yaml of its run {champion.run_id[:12]})" if champion.run_id else ""
    return None, (
        "nothing says which samples the champion was trained on, and the data has changed since: it may know these "
        f"test samples. Train its settings again{run} and promote that by --force: later versions are compared with it"
    )


def _of_other_data(champion: ModelVersion, identity: str, data_sha256: str) -> str:
    """Return why a champion is not comparable, since it was trained on another data set; empty if it wasn't.

    Versions that were registered without an identity are compared as before.
    """
    theirs = champion.tags.get("data.identity", "")
    if not theirs or not identity or theirs == identity or champion.tags.get("data.sha256") == data_sha256:
        return ""
    return (
        f"the champion was trained on another data set, {theirs}, and not on {identity}: the two are not compared. "
        "Register them under different names by --export.register_as"
    )


def _former_name(name: str, data: DataRef) -> str:
    """Return in words under which name earlier versions of Torchmill registered such a model, if they did."""
    config = DataConfig(name=data.name)
    former = config.former_title + name.removeprefix(config.title)
    if not name.startswith(config.title) or former == name:
        return ""
    try:
        names = {version.name for version in tracking.versions(Runs.here(), only_aliases_need_tags=True)}
    except UserError:  # MLflow does not answer
        return ""
    return f"; {former}, the name before this version of Torchmill, keeps its own" if former in names else ""


def _with_data_note(verdict: Verdict, champion: ModelVersion, data_sha256: str) -> Verdict:
    if not verdict.comparison or champion.tags.get("data.sha256") == data_sha256:
        return verdict
    note = "the champion was trained on other data and is scored on this run's test samples"
    return replace(verdict, reason=f"{verdict.reason}; {note}")


def tags_of(verdict: Verdict, run_id: str, champion: ModelVersion | None, data_sha256: str) -> dict[str, str]:
    """Return the tags that a verdict writes on a version and its run."""
    values = {"promotion.run": run_id, "promotion.data": data_sha256}
    if champion:
        values |= {"promotion.champion": champion.version, "promotion.champion_run": champion.run_id}
    return {name: value for name, value in {**verdict.tags(), **values}.items() if value}


def describe(name: str, version: str, promotion: PromotionRef | Verdict, champion: str | None) -> str:
    """Return a verdict as one line."""
    match promotion.outcome:
        case "promoted":
            return f"{name} version {version} is champion: {promotion.reason}"
        case "kept" if promotion.reason == SAME_MODEL:
            return f"{name} version {version} is the same model as the champion, version {champion}: nothing to decide"
        case "kept":
            return (
                f"{name} version {version} stays challenger, version {champion} champion: {promotion.reason}. "
                f"To promote it anyway: torchmill promote {name} {version} --force"
            )
    later = f"torchmill promote {name} {version if version.isdecimal() else ''}".rstrip()
    return f"{name}: not decided yet, {promotion.reason}. Try later: {later}"


def promote(runs: Runs, name: str, number: str | None, force: bool, trust: bool = False) -> int:
    """Compare a version with the champion, or make it the champion by force; return the exit code.

    Raises:
        UserError: there is no such version, or it cannot be compared.
    """
    for _ in range(ATTEMPTS):
        versions = tracking.versions(runs)
        version = _find_version(versions, name, number)
        champion = next((version for version in versions if version.name == name and CHAMPION in version.aliases), None)
        if champion and champion.version == version.version:
            print(f"{version} is the champion already.")
            return 0
        if force or champion is None:
            verdict = Verdict("promoted", "by hand" if force else "there was no champion")
        else:
            refusal = _of_other_data(
                champion, version.tags.get("data.identity", ""), version.tags.get("data.sha256", "")
            )
            verdict, contest = (Verdict("kept", refusal), None) if refusal else _compare(runs, version, champion, trust)
            if contest and verdict.comparison:
                tracking.count_contest(runs, name, contest)
        tags = tags_of(verdict, version.run_id, champion, version.tags.get("data.sha256", ""))
        expected = champion.version if champion else None
        if verdict.outcome != "promoted":
            tracking.tag_version(runs, version, tags)
            print(describe(name, version.version, verdict, expected))
            return 1
        if tracking.set_champion(runs, version, expected, "by hand" if force else "promoted", tags):
            print(describe(name, version.version, verdict, version.version))
            if champion:
                print(f"Back to version {champion.version}: torchmill rollback {name}")
            return 0
    raise UserError(f"The champion of {name} changed during each of {ATTEMPTS} comparisons.", "Try again.")


def _find_version(versions: list[ModelVersion], name: str, number: str | None) -> ModelVersion:
    if number is not None:
        return find_version(versions, f"{name}@{number}")
    named = [version for version in versions if version.name == name]
    challengers = [version for version in named if CHALLENGER in version.aliases]
    if named and not challengers:
        champion = [version for version in named if CHAMPION in version.aliases]
        if len(named) == len(champion):
            return champion[0]
        numbers = ", ".join(version.version for version in named)
        raise UserError(f"{name} has no challenger.", f"Name a version: {numbers}.")
    return challengers[0] if challengers else find_version(versions, name)


def _compare(runs: Runs, version: ModelVersion, champion: ModelVersion, trust: bool) -> tuple[Verdict, Contest]:
    """Compare two versions on the test split of the challenger's run; return the contest, too."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.comparison.champion import compare_with_champion

    recorded = tracking.find_run(runs, version.run_id)
    config = fetch_recipe(runs, recorded, trust)
    data = fetch(config.data.name, data_cache(), args=arguments(config.data))
    if data.sha256 != version.tags.get("data.sha256"):
        raise UserError(
            f"{data.name} has changed since {version} was trained on it.",
            "Train again, or add --force if you know that it is better.",
        )
    trained_on, refusal = _trained_on(champion, tracking.trained_on_file(runs, champion.run_id), data.sha256)
    contest = _contest(champion, version.tags.get("onnx.sha256", str(version)), data)
    if refusal:
        return Verdict("kept", refusal), contest
    number = tracking.contests_of(runs, version.name).number(contest)
    challenger, current = (tracking.onnx_file(runs, each) for each in (version, champion))
    verdict = compare_with_champion(challenger, current, data, config.promote, trained_on=trained_on, contest=number)
    return _with_data_note(verdict, champion, data.sha256), contest


def roll_back(runs: Runs, name: str) -> int:
    """Make the former champion the champion again; return the exit code.

    Raises:
        UserError: there is no former champion.
    """
    now, was = tracking.roll_back(runs, name)
    print(
        f"{name} version {now} is the champion again instead of version {was}. "
        f"Run it again to undo that; for another version: torchmill promote {name} VERSION --force"
    )
    return 0


def registered(runs: Runs) -> list[str]:
    """Return a line for each registered model: number of versions, champion and challenger."""
    versions, contests = tracking.versions(runs, only_aliases_need_tags=True), tracking.all_contests(runs)
    lines = []
    for name in dict.fromkeys(version.name for version in versions):
        named = [version for version in versions if version.name == name]
        aliases = [
            f"{alias} version {version.version}{_score(version)}"
            for alias in (CHAMPION, CHALLENGER)
            for version in named
            if alias in version.aliases
        ]
        decided = _decided(contests.get(name))
        lines.append(f"{name}: {count(len(named), 'version')}, {', '.join(aliases) or 'no champion'}{decided}")
    return lines


def _decided(contests: Contests | None) -> str:
    if not contests or not contests.splits:
        return ""
    return f"; its test split has decided {count(contests.splits[-1].decided, 'contest')}"


def _score(version: ModelVersion) -> str:
    scores = {name.removeprefix("test_"): value for name, value in version.tags.items() if name.startswith("test_")}
    return "".join(f" ({name.replace('_', ' ')} {value})" for name, value in list(scores.items())[:1])
