"""MLflow's model registry: its versions, their files, the champion and rollback."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from torchmill.components.errors import UserError
from torchmill.components.files import locked
from torchmill.components.refs import TRAINED_ON
from torchmill.components.runs.folders import Runs, below
from torchmill.components.tracking.champions import CHALLENGER, CHAMPION, Champions, ModelVersion, find_version
from torchmill.components.tracking.client import call_until, open_client, server_address
from torchmill.components.tracking.contests import CONTESTS_TAG, Contest, Contests
from torchmill.components.tracking.database import check_database, relocate
from torchmill.components.tracking.recorded_runs import download_artifact

CHAMPIONS_TAG = "torchmill.champions"
"""Tag of a registered model with the history of its champions."""

ROLLBACK_ATTEMPTS = 10


def versions(runs: Runs, *, only_aliases_need_tags: bool = False) -> list[ModelVersion]:
    """Return all versions of all registered models, by name and number.

    The SQLite file is read without MLflow, which takes seconds to import.

    Args:
        only_aliases_need_tags: leave out the tags of the other versions: there may be a hundred thousand.

    Raises:
        UserError: MLflow doesn't answer.
    """
    if not server_address():
        rows = _read_database(runs, only_aliases_need_tags)
    else:
        with open_client(runs) as client:
            rows = [
                read_version(client, model.name, str(version.version), model.aliases)
                for model in _all_pages(client.search_registered_models)
                for version in client.search_model_versions(f"name = '{model.name}'")
            ]
    return sorted(rows, key=lambda version: (version.name, int(version.version)))


def _read_database(runs: Runs, only_aliases_need_tags: bool) -> list[ModelVersion]:
    if not runs.database.exists():
        return []
    check_database(runs)
    relocate(runs)  # the addresses that follow must be the present ones
    tags: dict[tuple[str, int], dict[str, str]] = {}
    aliases: dict[tuple[str, int], list[str]] = {}
    with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
        query = "SELECT key, value, name, version FROM model_version_tags"
        if only_aliases_need_tags:
            query += " WHERE (name, version) IN (SELECT name, version FROM registered_model_aliases)"
        for key, value, name, number in connection.execute(query):
            tags.setdefault((name, number), {})[key] = value
        for alias, name, number in connection.execute("SELECT alias, name, version FROM registered_model_aliases"):
            aliases.setdefault((name, number), []).append(alias)
        rows = connection.execute(
            "SELECT name, version, run_id, storage_location FROM model_versions WHERE current_stage IS NULL "
            "OR current_stage != 'Deleted_Internal'"
        ).fetchall()
    return [
        ModelVersion(
            name=name,
            version=str(number),
            run_id=run_id or "",
            tags=tags.get((name, number), {}),
            aliases=tuple(sorted(aliases.get((name, number), []))),
            folder_uri=location or "",
        )
        for name, number, run_id, location in rows
    ]


def _all_pages(search: Callable[..., Any]) -> Generator[Any]:
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def read_version(client: Any, name: str, version: str, aliases: Mapping[str, Any] = {}) -> ModelVersion:
    """Return a version from the registry.

    Args:
        aliases: the model's aliases and the version that each names.
    """
    row = client.get_model_version(name, version)
    folder_uri = str(client.get_model_version_download_uri(name, version))
    names = tuple(sorted(alias for alias, number in aliases.items() if str(number) == version))
    return ModelVersion(name, version, row.run_id or "", dict(row.tags), names, folder_uri)


def onnx_file(runs: Runs, version: ModelVersion) -> Path:
    """Return the path of a version's ONNX file, downloaded if it is not on this machine.

    Raises:
        UserError: MLflow doesn't send it, or the version has none.
    """
    if folder := _local_folder(version):
        return _onnx_in(folder, version)
    with open_client(runs) as client:
        return download_onnx(client, version, below(runs.work / "models", version.name, version.version))


def download_onnx(client: Any, version: ModelVersion, folder: Path) -> Path:
    """Return the path of a version's ONNX file, downloaded into a folder if it is not on this machine."""
    if local := _local_folder(version):
        return _onnx_in(local, version)
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        unfinished.mkdir(parents=True, exist_ok=True)
        download_artifacts(artifact_uri=version.folder_uri, dst_path=str(unfinished), tracking_uri=client.tracking_uri)
        with contextlib.suppress(OSError):  # another process was faster
            unfinished.rename(folder)
    return _onnx_in(folder, version)


def trained_on_file(runs: Runs, run_id: str) -> Path | None:
    """Return the path of the digests of a run's training samples; None if it recorded none.

    Raises:
        UserError: MLflow doesn't send it.
    """
    if not run_id:  # registered by something else
        return None
    with open_client(runs) as client:
        return download_artifact(client, run_id, TRAINED_ON, below(runs.work / "trained_on", run_id))


def _local_folder(version: ModelVersion) -> Path | None:
    folder = Path(unquote(version.folder_uri.removeprefix("file://")))
    return folder if version.folder_uri.startswith("file://") and folder.is_dir() else None


def _onnx_in(folder: Path, version: ModelVersion) -> Path:
    files = sorted(folder.rglob("*.onnx"))
    if not files:
        raise UserError(f"{version} has no ONNX file among its files.", "Was it registered by something else?")
    return files[0]


def tag_version(runs: Runs, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags onto a version and its run.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with open_client(runs) as client:
        _write_tags(client, version, tags)


def _write_tags(client: Any, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
        if version.run_id:
            client.set_tag(version.run_id, key, value)


def set_challenger(client: Any, name: str, version: str) -> None:
    """Make a version that was just registered the challenger, unless it is champion."""
    if str(client.get_registered_model(name).aliases.get(CHAMPION)) != version:
        client.set_registered_model_alias(name, CHALLENGER, version)


def set_champion(runs: Runs, version: ModelVersion, expected: str | None, why: str, tags: Mapping[str, str]) -> bool:
    """Make a version champion if ``expected`` is still the champion, and write ``tags`` onto it and its run.

    Returns:
        False if another version is champion by now; nothing was changed.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with open_client(runs) as client:
        has_moved = move_champion(client, runs, version.name, version.version, expected, why)
        if has_moved:
            _write_tags(client, version, tags)
        return has_moved


def move_champion(client: Any, runs: Runs, name: str, version: str, expected: str | None, why: str) -> bool:
    """Make a version champion if ``expected`` is still the champion; return whether the version is champion now."""
    with locked(runs.work / "promotion.lock"):
        model = client.get_registered_model(name)
        champions, champion = read_champions(model)
        if champion not in (expected, version):
            return False
        if champion != version:
            champions = champions.with_intention(version, why)
            client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.as_json())
            client.set_registered_model_alias(name, CHAMPION, version)
        client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.reconciled(version).as_json())
        if str(model.aliases.get(CHALLENGER)) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    return True


def read_champions(model: Any) -> tuple[Champions, str | None]:
    """Return the former champions of a registered model, and the version that is champion now."""
    alias = model.aliases.get(CHAMPION)
    champion = None if alias is None else str(alias)
    return Champions.from_json(model.tags.get(CHAMPIONS_TAG)).reconciled(champion), champion


def read_standing(client: Any, name: str, version: str, run_id: str, folder: Path, until: float) -> dict[str, Any]:
    """Return how a version stands to the champion of its model; the champion's files are copied into a run's folder.

    Args:
        run_id: run of the version.
        until: deadline for the files, in seconds since 1970.
    """
    model = client.get_registered_model(name)
    champions, champion = read_champions(model)
    answer = {"file": None, "was_champion": version != champion and version in champions}
    if champion in (None, version):
        return answer | {"champion": champion and {"name": name, "version": version, "run_id": run_id}}
    holder = read_version(client, name, champion)
    place = below(folder, f"champion-{champion}")
    file = call_until(until, lambda: download_onnx(client, holder, place))
    trained_on = download_artifact(client, holder.run_id, TRAINED_ON, place.with_name(f"{place.name}-data"))
    row = {"name": name, "version": holder.version, "run_id": holder.run_id, "tags": holder.tags}
    files = {"file": str(file), "trained_on": trained_on and str(trained_on)}
    return answer | files | {"champion": row, "contests": read_contests(client, model).as_json()}


def read_contests(client: Any, model: Any) -> Contests:
    """Return the contests of a registered model: by its tag, or by its versions' tags of earlier versions."""
    name, text = model.name, model.tags.get(CONTESTS_TAG)
    if text is not None:
        return Contests.from_json(text)
    rows = _all_pages(partial(client.search_model_versions, f"name = '{name}' AND tags.`promotion.method` LIKE '%'"))
    return Contests.of_versions(ModelVersion(name, str(row.version), "", dict(row.tags)) for row in rows)


def contests_of(runs: Runs, name: str) -> Contests:
    """Return the contests of a model.

    Raises:
        UserError: MLflow doesn't answer.
    """
    with open_client(runs) as client:
        return read_contests(client, client.get_registered_model(name))


def count_contest(runs: Runs, name: str, contest: Contest) -> None:
    """Record that a test split has decided a contest.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with open_client(runs) as client:
        write_contest(client, runs, name, contest)


def write_contest(client: Any, runs: Runs, name: str, contest: Contest) -> None:
    """Add a contest to the tag of its model."""
    with locked(runs.work / "promotion.lock"):
        contests = read_contests(client, client.get_registered_model(name)).with_contest(contest)
        client.set_registered_model_tag(name, CONTESTS_TAG, contests.as_json())


def all_contests(runs: Runs) -> dict[str, Contests]:
    """Return the contests of all models that have some, by name. The SQLite file is read without MLflow.

    Raises:
        UserError: MLflow doesn't answer.
    """
    if server_address():
        with open_client(runs) as client:
            models = _all_pages(client.search_registered_models)
            texts = {model.name: model.tags[CONTESTS_TAG] for model in models if CONTESTS_TAG in model.tags}
    elif runs.database.exists():
        with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
            query = "SELECT name, value FROM registered_model_tags WHERE key = ?"
            texts = dict(connection.execute(query, (CONTESTS_TAG,)))
    else:
        texts = {}
    return {name: Contests.from_json(text) for name, text in texts.items()}


def roll_back(runs: Runs, name: str) -> tuple[str, str]:
    """Make the previous champion champion again; return its version and the version that it replaces.

    Raises:
        UserError: there is no such model, or no champion before the present one; MLflow doesn't answer.
    """
    registered = versions(runs)
    numbers = {version.version for version in registered if version.name == name}
    if not numbers:
        find_version(registered, name)
    with open_client(runs) as client:
        for _ in range(ROLLBACK_ATTEMPTS):
            champions, champion = read_champions(client.get_registered_model(name))
            former = champions.predecessor(champion, numbers)
            if champion is None or former is None:
                lack = "no champion" if champion is None else f"no champion before version {champion}"
                raise UserError(f"{name} has {lack}: there is nothing to go back to.", f"torchmill promote {name}")
            if move_champion(client, runs, name, former, champion, f"rolled back from version {champion}"):
                client.set_model_version_tag(name, champion, "promotion.outcome", "rolled back")
                return former, champion
    raise UserError(f"Others change the champion of {name} all the time.", "Try again.")
