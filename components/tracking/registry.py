"""The model registry in MLflow: versions, the champion, rollback."""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from torchmill.components.errors import UserError
from torchmill.components.files import locked
from torchmill.components.runs.folders import Runs
from torchmill.components.tracking.champions import CHALLENGER, CHAMPION, Champions, ModelVersion, find
from torchmill.components.tracking.store import check_database, open_client, relocate

CHAMPIONS_TAG = "torchmill.champions"


def versions(runs: Runs) -> list[ModelVersion]:
    """All versions of all registered models, by name and number.

    From the folder's own SQLite file without MLflow, which takes seconds to import.

    Raises:
        UserError: MLflow doesn't answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        found = _local_versions(runs)
    else:
        with open_client(runs) as client:
            found = [
                read_version(client, model.name, str(one.version), model.aliases)
                for model in _all_pages(client.search_registered_models)
                for one in client.search_model_versions(f"name = '{model.name}'")
            ]
    return sorted(found, key=lambda one: (one.name, int(one.version)))


def _local_versions(runs: Runs) -> list[ModelVersion]:
    if not runs.database.exists():
        return []
    check_database(runs)
    relocate(runs)  # otherwise files would be looked for where the folder was
    tags: dict[tuple[str, int], dict[str, str]] = {}
    aliases: dict[tuple[str, int], list[str]] = {}
    with contextlib.closing(sqlite3.connect(runs.database, timeout=60)) as connection:
        for key, value, name, number in connection.execute("SELECT key, value, name, version FROM model_version_tags"):
            tags.setdefault((name, number), {})[key] = value
        for alias, name, number in connection.execute("SELECT alias, name, version FROM registered_model_aliases"):
            aliases.setdefault((name, number), []).append(alias)
        rows = connection.execute(
            "SELECT name, version, run_id, storage_location FROM model_versions WHERE current_stage IS NULL "
            "OR current_stage != 'Deleted_Internal'"
        ).fetchall()
    return [
        ModelVersion(
            name,
            str(number),
            run_id or "",
            tags.get((name, number), {}),
            tuple(sorted(aliases.get((name, number), []))),
            place or "",
        )
        for name, number, run_id, place in rows
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
    held = client.get_model_version(name, version)
    place = str(client.get_model_version_download_uri(name, version))
    own = tuple(sorted(alias for alias, number in aliases.items() if str(number) == version))
    return ModelVersion(name, version, held.run_id or "", dict(held.tags), own, place)


def onnx_file(runs: Runs, version: ModelVersion) -> Path:
    """Have the ONNX file of a version on this machine.

    Raises:
        UserError: MLflow doesn't give it, or there is none.
    """
    if local := _local_folder(version):
        return _onnx_in(local, version)
    with open_client(runs) as client:
        return download_onnx(client, version, runs.work / "models" / version.name / version.version)


def _local_folder(version: ModelVersion) -> Path | None:
    folder = Path(unquote(version.place.removeprefix("file://")))
    return folder if version.place.startswith("file://") and folder.is_dir() else None


def download_onnx(client: Any, version: ModelVersion, folder: Path) -> Path:
    """Copy a version's files into a folder, unless they are on this machine anyway."""
    if local := _local_folder(version):
        return _onnx_in(local, version)
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        download_artifacts(artifact_uri=version.place, dst_path=str(partial), tracking_uri=client.tracking_uri)
        with contextlib.suppress(OSError):  # somebody else was quicker
            partial.rename(folder)
    return _onnx_in(folder, version)


def _onnx_in(folder: Path, version: ModelVersion) -> Path:
    files = sorted(folder.rglob("*.onnx"))
    if not files:
        raise UserError(f"{version} has no ONNX file among its files.", "Was it registered by something else?")
    return files[0]


def within(work: Callable[[], Path], until: float) -> Path:
    """Do work that may hang in a thread that is left to itself then.

    Raises:
        UserError: it isn't done by then.
    """
    done: list[Path | Exception] = []

    def do() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.time()))
    if not done:
        raise UserError("MLflow did not answer in time.")
    if isinstance(done[0], Exception):
        raise done[0]
    return done[0]


def set_challenger(client: Any, name: str, version: str) -> None:
    """Let a version that was just registered be the challenger."""
    if str(client.get_registered_model(name).aliases.get(CHAMPION)) != version:
        client.set_registered_model_alias(name, CHALLENGER, version)


def read_champions(client: Any, name: str) -> tuple[Champions, str | None]:
    """Give who was champion of a model, and who is."""
    model = client.get_registered_model(name)
    held = model.aliases.get(CHAMPION)
    champion = None if held is None else str(held)
    return Champions.read(model.tags.get(CHAMPIONS_TAG)).settled(champion), champion


def move_champion(client: Any, runs: Runs, name: str, version: str, expected: str | None, why: str) -> bool:
    """Make a version champion if the champion is still the one that is expected; gives whether it is champion now."""
    with locked(runs.work / "promotion.lock"):
        champions, champion = read_champions(client, name)
        if champion not in (expected, version):
            return False
        if champion != version:
            champions = champions.intending(version, why)
            client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.text())
            client.set_registered_model_alias(name, CHAMPION, version)
        client.set_registered_model_tag(name, CHAMPIONS_TAG, champions.settled(version).text())
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == version:
            client.delete_registered_model_alias(name, CHALLENGER)
    return True


def set_champion(runs: Runs, version: ModelVersion, expected: str | None, why: str, tags: Mapping[str, str]) -> bool:
    """Make a version champion if ``expected`` is still the champion, and write ``tags`` onto it and its run.

    Gives False, and changes nothing, where another is champion by now.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with open_client(runs) as client:
        moved = move_champion(client, runs, version.name, version.version, expected, why)
        if moved:
            _tag_version(client, version, tags)
        return moved


def tag_version(runs: Runs, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Write tags onto a version and its run.

    Raises:
        UserError: MLflow doesn't answer, or says no.
    """
    with open_client(runs) as client:
        _tag_version(client, version, tags)


def _tag_version(client: Any, version: ModelVersion, tags: Mapping[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
        if version.run_id:
            client.set_tag(version.run_id, key, value)


def roll_back(runs: Runs, name: str) -> tuple[str, str]:
    """Make the version champion that was it before; gives that, and the one that was champion until now.

    Raises:
        UserError: there is no such model, or no champion before this one; MLflow doesn't answer.
    """
    known = [one for one in versions(runs) if one.name == name]
    if not known:
        find(versions(runs), name)
    with open_client(runs) as client:
        for _ in range(10):
            champions, champion = read_champions(client, name)
            former = champions.before(champion, {one.version for one in known})
            if champion is None or former is None:
                told = "no champion" if champion is None else f"no champion before version {champion}"
                raise UserError(f"{name} has {told}: there is nothing to go back to.", f"torchmill promote {name}")
            if move_champion(client, runs, name, former, champion, f"rolled back from version {champion}"):
                client.set_model_version_tag(name, champion, "promotion.outcome", "rolled back")
                return former, champion
    raise UserError(f"Others change the champion of {name} all the time.", "Try again.")
