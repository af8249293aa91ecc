"""Who is champion: decided behind each training, by `torchmill promote`, and taken back by `torchmill rollback`."""

import logging

from torchmill.components import tracking
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.noninferiority import Verdict
from torchmill.components.evaluation.config import PromoteConfig
from torchmill.components.refs import DataRef, ExportRef, PromotionRef, RunRef
from torchmill.components.runs.folders import Runs, data_cache
from torchmill.components.runs.snapshot import read_snapshot
from torchmill.components.tracking.champions import CHALLENGER, CHAMPION, ModelVersion, find_version
from torchmill.components.tracking.model_requests import Standing

logger = logging.getLogger("torchmill")

ATTEMPTS = 5  # where others become champion meanwhile

UNANSWERED = Verdict("pending", "MLflow does not answer")


def decide(
    config: PromoteConfig, name: str, version: str, model: ExportRef, data: DataRef, run: RunRef
) -> tuple[Verdict, str | None]:
    """Judge a run's model version beside the champion, and record it; gives the verdict and who is champion then.

    Raises:
        UserError: MLflow says no.
    """
    champion: str | None = None
    for _ in range(ATTEMPTS):
        standing = tracking.standing(run, name, version) if version.isdecimal() else None
        if standing is None:  # nor is it known which version it is
            tracking.log_tags(run, UNANSWERED.tags())
            return UNANSWERED, None
        champion = standing.champion.version if standing.champion else None
        verdict = _beside(standing, version, config, model, data)
        tags = tags_of(verdict, run.run_id, standing.champion, data.sha256)
        if champion == version:  # how it became that is written on it already
            tracking.log_tags(run, tags)
            return verdict, champion
        crowned = verdict.outcome == "promoted"
        match tracking.promote(run, version, name, champion=champion, move=crowned, tags=tags):
            case "done":
                return verdict, version if crowned else champion
            case "pending":
                return Verdict("pending", f"{verdict.outcome}, when MLflow answers: {verdict.reason}"), champion
    verdict = Verdict("pending", "each time that it was compared, another became champion meanwhile")
    tracking.log_tags(run, verdict.tags())
    return verdict, champion


def _beside(standing: Standing, version: str, config: PromoteConfig, model: ExportRef, data: DataRef) -> Verdict:
    from torchmill.components.evaluation.comparison.champion import compare_with_champion, gates_of

    champion = standing.champion
    if champion is None:
        return Verdict("promoted", "there was no champion")
    if champion.version == version:
        return Verdict("promoted", "it is champion already")
    if standing.was_champion:
        return Verdict("kept", "it was champion before, and lost its place")
    if champion.tags.get("onnx.sha256") == model.onnx.sha256:
        return Verdict("kept", "it is the very same model as the champion")
    assert standing.file
    verdict = compare_with_champion(model.onnx.path, standing.file, data, config, gates_of(model.report.path))
    return _told_of_data(verdict, champion, data.sha256)


def _told_of_data(verdict: Verdict, champion: ModelVersion, data_sha256: str) -> Verdict:
    if not verdict.comparison or champion.tags.get("data.sha256") == data_sha256:
        return verdict
    return Verdict(
        verdict.outcome,
        f"{verdict.reason}; the champion was trained on other data, and is judged by this run's test samples",
        verdict.comparison,
        verdict.margin,
    )


def tags_of(verdict: Verdict, run_id: str, champion: ModelVersion | None, data_sha256: str) -> dict[str, str]:
    """What is written onto a version and its run."""
    held = {"promotion.run": run_id, "promotion.data": data_sha256}
    if champion:
        held |= {"promotion.champion": champion.version, "promotion.champion_run": champion.run_id}
    return {name: value for name, value in {**verdict.tags(), **held}.items() if value}


def told(name: str, version: str, promotion: PromotionRef | Verdict, champion: str | None) -> str:
    """A verdict in a line."""
    match promotion.outcome:
        case "promoted":
            return f"{name} version {version} is champion: {promotion.reason}"
        case "kept":
            return (
                f"{name} version {version} stays challenger, version {champion} champion: {promotion.reason}. "
                f"All the same: torchmill promote {name} {version} --force"
            )
    later = f"torchmill promote {name} {version if version.isdecimal() else ''}".rstrip()
    return f"{name}: not decided yet, {promotion.reason}. Later: {later}"


def promote(runs: Runs, name: str, number: str | None, force: bool) -> int:
    """Compare a version with the champion now, or make it champion by force; gives the exit code.

    Raises:
        UserError: there is no such version, or it cannot be compared.
    """
    for _ in range(ATTEMPTS):
        versions = tracking.versions(runs)
        version = _meant(versions, name, number)
        champion = next((one for one in versions if one.name == name and CHAMPION in one.aliases), None)
        if champion and champion.version == version.version:
            print(f"{version} is champion already.")
            return 0
        if force or champion is None:
            verdict = Verdict("promoted", "by hand" if force else "there was no champion")
        else:
            verdict = _compared(runs, version, champion)
        tags = tags_of(verdict, version.run_id, champion, version.tags.get("data.sha256", ""))
        expected = champion.version if champion else None
        if verdict.outcome != "promoted":
            tracking.tag_version(runs, version, tags)
            print(told(name, version.version, verdict, expected))
            return 1
        if tracking.set_champion(runs, version, expected, "by hand" if force else "promoted", tags):
            print(told(name, version.version, verdict, version.version))
            if champion:
                print(f"Back to version {champion.version}: torchmill rollback {name}")
            return 0
    raise UserError(f"Others change the champion of {name} all the time.", "Try again.")


def _meant(versions: list[ModelVersion], name: str, number: str | None) -> ModelVersion:
    if number is not None:
        return find_version(versions, f"{name}@{number}")
    held = [one for one in versions if one.name == name]
    challengers = [one for one in held if CHALLENGER in one.aliases]
    if held and not challengers:
        champion = [one for one in held if CHAMPION in one.aliases]
        if len(held) == len(champion):
            return champion[0]
        known = ", ".join(one.version for one in held)
        raise UserError(f"{name} has no challenger.", f"Say which version: {known}.")
    return challengers[0] if challengers else find_version(versions, name)


def _compared(runs: Runs, version: ModelVersion, champion: ModelVersion) -> Verdict:
    """Compare by the test data that the version's run had, as it is now."""
    from torchmill.components.data.fetch import arguments, fetch
    from torchmill.components.evaluation.comparison.champion import compare_with_champion

    recorded = tracking.find_run(runs, version.run_id)
    folder = runs.work / "recipes" / recorded.run_id
    tracking.fetch_snapshot(runs, recorded, folder)
    config = read_snapshot(folder)
    data = fetch(config.data.name, data_cache(), args=arguments(config.data))
    if data.sha256 != version.tags.get("data.sha256"):
        raise UserError(
            f"{data.name} is not what {version} was trained on: its content has changed since.",
            "Train again; or, if you know that it is better: --force.",
        )
    challenging, held = (tracking.onnx_file(runs, one) for one in (version, champion))
    return _told_of_data(compare_with_champion(challenging, held, data, config.promote), champion, data.sha256)


def roll_back(runs: Runs, name: str) -> int:
    """Make the former champion champion again; gives the exit code.

    Raises:
        UserError: there is none.
    """
    now, was = tracking.roll_back(runs, name)
    print(
        f"{name} version {now} is champion again, version {was} is not any more. "
        f"The same command again takes that back; any other: torchmill promote {name} VERSION --force"
    )
    return 0


def registered(runs: Runs) -> list[str]:
    """A line on each registered model: its versions, who is champion and who challenger."""
    versions = tracking.versions(runs)
    lines = []
    for name in dict.fromkeys(one.name for one in versions):
        held = [one for one in versions if one.name == name]
        shown = [
            f"{alias} version {one.version}{_score(one)}"
            for alias in (CHAMPION, CHALLENGER)
            for one in held
            if alias in one.aliases
        ]
        lines.append(f"{name}: {len(held)} version{'s' * (len(held) > 1)}, {', '.join(shown) or 'no champion'}")
    return lines


def _score(version: ModelVersion) -> str:
    scores = {name.removeprefix("test_"): value for name, value in version.tags.items() if name.startswith("test_")}
    return "".join(f" ({name.replace('_', ' ')} {value})" for name, value in list(scores.items())[:1])
