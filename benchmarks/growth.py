"""Seconds of commands in a store of 10,000 runs, beside the same commands in a store of 10.

One run is trained. Its copies differ from it as runs do: each has an id, a name, a folder with its journal, and results
of its steps. Each has its own keys, its rows in MLflow's database, and a version of the registered model. The first
`torchmill repair` parses every file, and so grows with their number; measured are the later ones.
"""

import functools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Claim, in_turn
from torchmill.components.runs.fingerprint import StepFingerprint

FEW, MANY, ROUNDS = 10, 10_000, 5
COMMANDS = {
    "report last": ("report", "last"),
    "models": ("models",),
    "evaluate last": ("evaluate", "last"),
    "repair --dry-run": ("repair", "--dry-run"),
    "train, nothing changed": ("train", "--train.epochs", "1", "--name", "first"),
    "train anew, 1 epoch of digits": ("train", "--train.epochs", "1", "--fresh"),
}
TABLES = ("params", "tags", "metrics", "latest_metrics")
"""Tables of MLflow with a column ``run_uuid`` beside others."""
FILES = ("run.json", "journal.jsonl", "sent.json", "receipts.jsonl", "result.json", "alive.lock", "recorder.lock")


def measure() -> list[Claim]:
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "first"
        run_command(first, *COMMANDS["train, nothing changed"])
        stores = {count: Path(place) / str(count) for count in (FEW, MANY)}
        for count, store in stores.items():
            shutil.copytree(first, store)
            run_command(store, "repair")  # MLflow's addresses follow the folder
            grow(store / "mlruns", count - 1)
        return compare(stores)


def compare(stores: Mapping[int, Path]) -> list[Claim]:
    """Run all commands in both stores, in turn."""
    claims = []
    for name, command in COMMANDS.items():
        measures = {str(count): functools.partial(run_command, store, *command) for count, store in stores.items()}
        seconds = in_turn(measures, ROUNDS)
        subject = f"commands with {MANY:,} runs in the store, beside {FEW}"
        claims.append(Claim(subject, name, seconds[str(MANY)], seconds[str(FEW)], "s", "≤ 1.2"))
    return claims


def run_command(folder: Path, *arguments: str) -> float:
    """Run a command of ours in a folder with its own store; return its seconds."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"TORCHMILL_RUNS": str(folder / "mlruns"), "TORCHMILL_DATA": str(folder.parent / "data")}
    command = [sys.executable, "-P", "-m", "torchmill", *arguments]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def grow(runs: Path, copies: int) -> None:
    """Add copies of the only run of a store."""
    (folder,) = [path.parent for path in runs.glob("work/*/result.json")]
    steps = list(runs.glob("work/steps/*/*/result.json"))
    with closing(sqlite3.connect(runs / "mlflow.db")) as database, database:
        ((run_id,),) = database.execute("SELECT run_uuid FROM runs WHERE status = 'FINISHED'").fetchall()
        for number in range(1, copies + 1):
            other_id, name = uuid.uuid4().hex, f"{folder.name}-{number}"
            changes = {run_id: other_id, folder.name: name}
            _add_rows(database, changes, number)
            copy = runs / "work" / name
            copy.mkdir()
            for file in FILES:
                _copy(folder / file, copy / file, changes)
            _add_key(copy, number)
            for step in steps:
                other = step.parent.with_name(uuid.uuid4().hex)
                other.mkdir()
                _copy(step, other / "result.json", changes)


def _add_key(folder: Path, number: int) -> None:
    """Change the seed of a run's copy, and add the copy to the index by its new fingerprint."""
    manifest = json.loads((folder / "run.json").read_text())
    manifest["fingerprint"]["settings"]["seed"] = str(number)
    (folder / "run.json").write_text(json.dumps(manifest))
    key = StepFingerprint.model_validate(manifest["fingerprint"]).key
    (folder.parent / "keys" / key[:32]).write_text(f"{folder.name}\n")


def _copy(source: Path, target: Path, changes: dict[str, str]) -> None:
    text = source.read_text()
    for before, after in changes.items():
        text = text.replace(before, after)
    target.write_text(text)


def _add_rows(database: sqlite3.Connection, changes: dict[str, str], number: int) -> None:
    (run_id, other_id), (folder, name) = changes.items()
    columns = [row[1] for row in database.execute("PRAGMA table_info(runs)")]
    values = {column: column for column in columns} | {
        "run_uuid": ":other",
        "name": ":name",
        "start_time": "start_time - :n",
    }
    names = {"other": other_id, "name": name, "n": 1000 * number, "run": run_id, "folder": folder}
    database.execute(
        f"INSERT INTO runs ({', '.join(columns)}) SELECT {', '.join(values[column] for column in columns)} "
        "FROM runs WHERE run_uuid = :run",
        names,
    )
    for table in TABLES:
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        values = {column: column for column in columns} | {"run_uuid": ":other"}
        if table == "tags":
            values["value"] = "replace(replace(value, :run, :other), :folder, :name)"
        database.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values[column] for column in columns)} "
            f"FROM {table} WHERE run_uuid = :run",
            names,
        )
    for table in ("model_versions", "model_version_tags"):
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        values = {column: column for column in columns} | {"version": "version + :n / 1000", "run_id": ":other"}
        database.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values[column] for column in columns)} "
            f"FROM {table} WHERE version = 1",
            names,
        )
