"""Damaged state files: whatever is wrong with one, its readers go on, and its bytes stay.

The number of inputs comes from the environment: TORCHMILL_FUZZ_INPUTS=100000 pytest tests/faults/test_state_files.py
"""

import inspect
import json
import logging
import os
import random
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.damage import INPUTS, damaged, replace, time_limit
from torchmill.components.config import RunConfig
from torchmill.components.encoding.columns import Column, Columns
from torchmill.components.encoding.vocabulary import Vocabulary
from torchmill.components.errors import UserError
from torchmill.components.evaluation.comparison.paired import pair
from torchmill.components.evaluation.evaluation import Evaluation
from torchmill.components.evaluation.report.summary import summary
from torchmill.components.files import locked, write_atomically
from torchmill.components.local_access.key import credentials
from torchmill.components.metrics.predictions import Predictions
from torchmill.components.refs import FileRef, NetworkRef, RunRef, StepRef
from torchmill.components.runs import checked_folders
from torchmill.components.runs import claim as claims
from torchmill.components.runs.checked_folders import CheckedFolders, digest_of_checks
from torchmill.components.runs.cleanup import leftovers
from torchmill.components.runs.fingerprint import StepFingerprint
from torchmill.components.runs.folders import Runs
from torchmill.components.runs.step_cache import StepCache
from torchmill.components.state_files import Damaged, only_looking, read_json
from torchmill.components.tracking import recorded_metrics, recorded_steps, replay
from torchmill.components.tracking.champions import Champions, Reign
from torchmill.components.tracking.delivery import Delivery
from torchmill.components.tracking.journal import Journal
from torchmill.components.tracking.recorder import mend_journals, pending_runs
from torchmill.components.tracking.recorder_process import Recorder, wait_for_receipt
from torchmill.components.training.checkpoint import Checkpoints
from torchmill.components.training.tuning.autotune import SavedChoices
from torchmill.components.training.tuning.find_lr import SavedCurve
from torchmill.flows.services import crashed_runs, up_state
from torchmill.flows.services.damaged_files import mend_files
from torchmill.flows.services.prefect_server import ServerAtHand
from torchmill.flows.services.prewarm.imports import import_learned

FINGERPRINT = StepFingerprint(settings={"seed": "0"}, code={"net.py": {"class Net": "1"}}, versions={}, inputs={})
CONFIG = RunConfig.model_validate({"data": "digits", "name": "calm otter"})
FLOW_RUN = "0194d7a0-0000-7000-8000-000000000000"
NAME = "calm-otter-1"

RECORDS: tuple[dict[str, Any], ...] = (
    {
        "kind": "open",
        "id": "f" * 32,
        "server": "",
        "experiment": "digits",
        "name": "calm otter",
        "params": {"seed": "0"},
    }
    | {"tags": {"machine": "x"}},
    {"kind": "files", "paths": ["config.yaml", "../steps/fit/k/best.bin"], "folder": ""},
    {
        "kind": "dataset",
        "name": "digits",
        "digest": "d",
        "source": "file:x",
        "profile": {"classes": 10, "shape": [1, 8, 8]},
    },
    {"kind": "begin", "name": "fit"},
    {"kind": "metrics", "step": 1, "time": 1764000000000, "values": {"train_loss": 0.5, "lr": 1e-3}},
    {"kind": "metrics", "step": 2, "time": 1764000001000, "values": {"train_loss": 0.25, "lr": 1e-3}},
    {"kind": "step", "name": "fit", "step": StepRef(state="ran", seconds=1.5, key="k", why="first").model_dump()},
    {"kind": "register", "ask": "a", "name": "cnn", "file": "model.onnx", "example": "example.npz", "tags": {"t": "v"}},
    {"kind": "standing", "ask": "b", "name": "cnn", "version": "1", "until": 1764000002.5},
    {"kind": "promote", "ask": "c", "name": "cnn", "version": "1", "champion": None, "crown": True, "tags": {}},
    {"kind": "settle", "ask": "d"},
    {"kind": "params", "params": {"device.used": "cpu"}},
    {"kind": "tags", "tags": {"weights.sha256": "0" * 64}},
    {"kind": "end", "status": "FINISHED", "ask": "e"},
)
RECEIPTS = (
    {"receipt": "opened", "process": 1, "run_id": "r" * 32, "experiment_id": "1", "server": ""},
    {"receipt": "away", "process": 1, "message": "no"},
    {"receipt": "back", "process": 1},
    {"receipt": "registered", "process": 1, "ask": "a", "version": "1"},
    {"receipt": "standing", "process": 1, "ask": "b", "champion": {"name": "cnn", "version": "1", "run_id": "r"}}
    | {"file": None, "was_champion": False},
    {"receipt": "promotion", "process": 1, "ask": "c", "state": "done"},
    {"receipt": "declined", "process": 1, "ask": "c2", "message": "no"},
    {"receipt": "refused", "process": 1, "recorder": "t", "message": "m", "remedy": "r", "unreachable": False},
    {"receipt": "settled", "process": 1, "ask": "d"},
    {"receipt": "ended", "process": 1, "ask": "e"},
)


def lines(rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


@dataclass(frozen=True)
class Store:
    """A folder of runs with one run, beside another folder that nothing may touch."""

    runs: Runs
    outside: Path

    @property
    def run(self) -> Path:
        return self.runs.work / NAME

    @property
    def cache(self) -> StepCache:
        return StepCache(self.runs)

    def growing(self) -> list[Path]:
        """Return the files to which readers add lines."""
        names = ("journal.jsonl", "receipts.jsonl")
        return [self.runs.work / "keys" / FINGERPRINT.key[:32], *(self.run / name for name in names)]

    def make(self) -> None:
        """Write a store as an interrupted run leaves it, with every state file that there is."""
        work = self.runs.work
        self.run.mkdir()
        (self.run / "alive.lock").touch()
        (self.run / "config.yaml").write_text("data: digits\n")
        manifest = claims.Manifest(name="calm otter", config=CONFIG, fingerprint=FINGERPRINT, fresh=False, process=1)
        (self.run / "run.json").write_text(manifest.model_dump_json())
        (self.run / "journal.jsonl").write_bytes(lines(RECORDS))
        (self.run / "receipts.jsonl").write_bytes(lines(RECEIPTS))
        progress = {"to": 200, "run_id": "r" * 32, "status": "", "experiment_id": "1"}
        (self.run / "sent.json").write_text(json.dumps(progress))
        (work / "keys").mkdir()
        (work / "keys" / FINGERPRINT.key[:32]).write_text(f"gone-1\n{NAME}\n")
        (self.run / "initial.bin").write_bytes(b"weights")
        network = NetworkRef(reference="n", arguments={}, weights=FileRef.of(self.run / "initial.bin"), parameters=3)
        self.cache.store("initialize", FINGERPRINT, RunRef(run_id="r", name="n", folder=self.run, url=""), network)
        (work / "flows").mkdir()
        (work / "flows" / FLOW_RUN).write_text(json.dumps({"api": "http://127.0.0.1:1/api"}))
        up = {"mlflow": "http://127.0.0.1:5000", "prefect": "http://127.0.0.1:4200", "runner": "http://127.0.0.1:1"}
        up |= {"prefect_api": "http://127.0.0.1:4200/api", "prewarm": "/tmp/socket", "pid": "7", "theirs": []}
        (work / "up.json").write_text(json.dumps(up))
        (work / "ports.json").write_text(json.dumps({"mlflow": 5000, "prefect": 4200, "runner": 40000}))
        (work / "prefect.json").write_text(json.dumps({"api": "http://127.0.0.1:40001/api", "pid": 7}))
        (work / "trials.json").write_text(json.dumps({"device": "cpu", "batch_size": 64, "compile": False}))
        (work / "lr.json").write_text(json.dumps({"rates": [1e-4, 1e-3], "losses": [2.0, 1.0], "found": 1e-4}))
        outputs = np.eye(4, 3, dtype=np.float32)
        Predictions(outputs, np.arange(4) % 3, 1.5).write(work / "predictions.npz")
        Evaluation.model_validate(EVALUATION).write(work / "evaluation.json")
        Checkpoints(work / "checkpoints", 30).save({"epoch": 1})
        (work / "vocabulary.json").write_text(
            Vocabulary.of(["a b c", "b"], "words", lower_case=True, max_length=8).as_json()
        )
        (work / "checked.json").write_text(
            json.dumps({"checks": digest_of_checks(), "marks": {"": {NAME: 7}}, "watched": {"": {NAME: ["keys/k"]}}})
        )
        credentials(self.runs)
        (work / "prewarm.modules").write_text("json csv torchmill.components.errors\nwave\n")
        (work / "columns.json").write_text(Columns((Column("age"), Column("color", ("red", "blue")))).as_json())
        (work / "champions.json").write_text(
            Champions((Reign("1", "2026", "x"), Reign("2", "2026", "y", True))).as_json()
        )


EVALUATION = {
    "samples": 4,
    "measure": "accuracy",
    "loss": 0.5,
    "accuracy": 0.75,
    "accuracy_95": [0.5, 1.0],
    "classes": {"a": {"precision": 1.0, "recall": 0.5, "f1": 0.7, "support": 4}},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("TORCHMILL_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = Store(Runs(tmp_path / "a" / "b" / "mlruns").ready(), tmp_path / "outside")
    store.outside.mkdir()
    (store.outside / "run.json").write_text("{}")
    store.make()
    return store


def read_journal(store: Store) -> None:
    run = RunRef(run_id="r", name="n", folder=store.run, url="")
    pending_runs(store.runs)
    recorded_metrics(run)
    recorded_steps(run)
    copy = RunRef(run_id="r", name="n", folder=store.runs.work / "copy", url="")
    copy.folder.mkdir(exist_ok=True)
    replay(copy, store.run, "fit")
    (copy.folder / "journal.jsonl").unlink(missing_ok=True)
    deliver(store)
    mend_journals(CheckedFolders(store.runs), dry_run=True)
    Journal(store.run).append({"kind": "settle", "ask": "last"})
    is_file = (store.run / "journal.jsonl").is_file()
    assert not is_file or Journal(store.run).records()[-1]["ask"] == "last", "a damaged line takes the next with it"
    mend_journals(CheckedFolders(store.runs), dry_run=False)


def deliver(store: Store) -> None:
    """Read the records to deliver; each fits the method that sends it."""
    delivery = Delivery(store.run / "journal.jsonl", store.runs)
    try:
        delivery.read()
    except (OSError, Damaged):  # the recorder explains it
        return
    for _, record in delivery.waiting:
        if record["kind"] != "metrics":
            takes = inspect.signature(getattr(delivery, f"do_{record['kind']}"))
            takes.bind(**{name: value for name, value in record.items() if name in takes.parameters})


def read_receipts(store: Store) -> None:
    from torchmill.components.state_files import read_json_lines
    from torchmill.components.tracking.recorder_process import _is_away
    from torchmill.components.tracking.records import Receipt

    receipts = read_json_lines(store.run / "receipts.jsonl", Receipt)
    _is_away(receipts)
    for receipt in receipts:
        if receipt["receipt"] == "opened":
            assert all(isinstance(receipt[key], str) for key in ("server", "run_id", "experiment_id"))
    delivery = Delivery(store.run / "journal.jsonl", store.runs, "token")
    if (store.run / "receipts.jsonl").is_file() or not os.path.lexists(store.run / "receipts.jsonl"):
        delivery.receipt("ended", ask="new")
        assert read_json_lines(store.run / "receipts.jsonl", Receipt)[-1]["ask"] == "new"


def claim(store: Store) -> None:
    claims.find_result(store.runs, FINGERPRINT)
    claimed = claims.claim(store.runs, FINGERPRINT, CONFIG, "new", "new", fresh=False)
    with claimed.locks:
        assert claimed.folder.parent == store.runs.work and claimed.folder.resolve().is_relative_to(store.runs.work)
    if claimed.folder != store.run:
        assert claimed.folder.name.startswith("new")
        for path in claimed.folder.iterdir():
            path.unlink()
        claimed.folder.rmdir()
    claims.mend_index(CheckedFolders(store.runs), dry_run=True)


def read_steps(store: Store) -> None:
    store.cache.explain("initialize", FINGERPRINT)
    if hit := store.cache.find("initialize", FINGERPRINT.key):
        assert "/" not in hit[1].run


def read_predictions(store: Store) -> None:
    predictions = Predictions.read(store.runs.work / "predictions.npz")
    if predictions.outputs.shape == (4, 3):
        pair(predictions, predictions, "classification")


def read_evaluation(store: Store) -> None:
    summary(Evaluation.read(store.runs.work / "evaluation.json"), "classification")


def parse(read: Callable[[str], Any], name: str) -> Callable[[Store], None]:
    """Return a reader of a text from MLflow or an ONNX file, for which damage is one kind of error."""

    def work(store: Store) -> None:
        path = store.runs.work / name
        if not path.is_file():
            return
        try:
            read(path.read_text(encoding="utf-8", errors="replace"))
        except Damaged:
            return

    return work


def shape(name: str, expected: Any) -> Callable[[Store], None]:
    return lambda store: read_json(store.runs.work / name, expected)


def champions(text: str) -> None:
    Champions.from_json(text).reconciled("2").as_json()


KINDS: dict[str, Callable[[Store], Any]] = {
    f"{NAME}/journal.jsonl": read_journal,
    f"{NAME}/receipts.jsonl": read_receipts,
    f"{NAME}/sent.json": read_journal,
    f"{NAME}/run.json": claim,
    f"{NAME}/result.json": claim,
    f"keys/{FINGERPRINT.key[:32]}": claim,
    f"steps/initialize/{FINGERPRINT.key[:32]}/result.json": read_steps,
    f"flows/{FLOW_RUN}": lambda store: crashed_runs.dead(store.runs, own=True),
    "up.json": lambda store: (up_state.ui_address(store.runs, "mlflow"), up_state.mlflow_ui(store.runs)),
    "ports.json": shape("ports.json", up_state.Ports),
    "prefect.json": shape("prefect.json", up_state.SharedServer),
    "trials.json": shape("trials.json", SavedChoices),
    "lr.json": shape("lr.json", SavedCurve),
    "predictions.npz": read_predictions,
    "evaluation.json": read_evaluation,
    "checkpoints/*.pt": lambda store: Checkpoints(store.runs.work / "checkpoints", 30).newest(),
    "vocabulary.json": parse(Vocabulary.from_json, "vocabulary.json"),
    "columns.json": parse(Columns.from_json, "columns.json"),
    "champions.json": parse(champions, "champions.json"),
    "key": lambda store: credentials(store.runs).encode("ascii"),
    "checked.json": lambda store: CheckedFolders(store.runs).changed,
    "prewarm.modules": lambda store: import_learned(store.runs.work / "prewarm.modules"),
}
"""Patterns of state files below the working folder, each with the commands' readers of it."""

MAY_COMPLAIN = {"predictions.npz", "evaluation.json"}
"""Files that a command asks for by name: damage is an error in words."""


@pytest.mark.parametrize(
    "seeds",
    [range(8), pytest.param(range(max(20, INPUTS // len(KINDS))), marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_stops_a_reader_or_destroys_what_was_there(
    kind: str, seeds: range, store: Store, caplog: pytest.LogCaptureFixture
):
    if kind.endswith("result.json") and kind.startswith(NAME):
        (store.run / "result.json").write_text(json.dumps({"run_id": "r", "status": "FINISHED", "name": "calm otter"}))
    (path,) = store.runs.work.glob(kind)
    content, before = path.read_bytes(), listing(store.outside)
    growing = {other: other.read_bytes() for other in store.growing() if other != path}
    caplog.set_level(logging.CRITICAL)
    for seed in seeds:
        draw = random.Random(f"{kind} {seed}")
        damage = damaged(content, draw)
        replace(path, damage, draw)
        for other, good in growing.items():
            other.write_bytes(good)
        was = path.stat().st_mode if path.exists() else 0
        try:
            with time_limit():
                KINDS[kind](store)
                if seed % 50 == 0:
                    list(mend_files(CheckedFolders(store.runs), dry_run=False))
        except UserError:
            assert kind in MAY_COMPLAIN or not stat.S_ISREG(was), f"seed {seed}"
        except BaseException as error:
            raise AssertionError(f"{kind}, seed {seed}: {damage[:300]!r}") from error
        if stat.S_ISREG(was) and not kind.endswith(".jsonl"):  # lines are added to those, and a half one is cut off
            kept = [
                each.read_bytes() for each in path.parent.glob(f"{path.name.removesuffix('.pt')}*") if each.is_file()
            ]
            assert any(each.startswith(damage) for each in kept) or kind.endswith("run.json"), (
                f"seed {seed}: it is lost"
            )
        path.with_name("nowhere").unlink(missing_ok=True)
        for aside in path.parent.glob("*.damaged*"):
            aside.rmdir() if aside.is_dir() and not aside.is_symlink() else aside.unlink()
        for other in store.runs.work.glob("new*"):
            raise AssertionError(f"left: {other}")
    assert listing(store.outside) == before


def listing(folder: Path) -> list[tuple[str, bytes]]:
    return sorted((str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_an_index_names_no_folder_outside_the_store(store: Store):
    """A line ``../../../outside`` led to the manifest of another folder."""
    index = store.runs.work / "keys" / FINGERPRINT.key[:32]
    foreign = os.path.relpath(store.outside, store.runs.work)
    manifest = claims.Manifest(name="foreign", config=CONFIG, fingerprint=FINGERPRINT, fresh=False)
    (store.outside / "run.json").write_text(manifest.model_dump_json())
    index.write_bytes(f"{foreign}\n{store.outside}\n".encode() + b"\xff\xfe\n")
    (store.run / "result.json").unlink(missing_ok=True)
    before = listing(store.outside)
    claimed = claims.claim(store.runs, FINGERPRINT, CONFIG, "new", "new", fresh=False)
    with claimed.locks:
        assert claimed.folder.parent == store.runs.work and not claimed.is_resumed
    assert listing(store.outside) == before


@pytest.mark.parametrize("digits", ["9" * 23, "1", "4294967296", "١٢٣"])
def test_a_partial_file_with_an_odd_number_stops_no_cleanup(store: Store, digits: str):
    partial = store.runs.work / f".x.{digits}.partial"
    partial.write_text("half")
    assert (partial in leftovers(CheckedFolders(store.runs), store.runs.folder)) == (digits.isascii() and digits != "1")


def test_the_lock_of_a_partial_file_tells_whether_its_writer_lives(store: Store):
    """Its process id may be another process's by now, or one of another machine."""
    reused, held = (store.runs.work / f".x.{number}.partial" for number in (os.getppid(), 2**31 - 1))
    for path in (reused, held):
        path.write_text("half")
    with locked(held):
        assert not leftovers(CheckedFolders(store.runs), store.runs.folder)
        os.utime(reused, (0, 0))
        os.utime(held, (0, 0))
        assert leftovers(CheckedFolders(store.runs), store.runs.folder) == [reused]
    assert set(leftovers(CheckedFolders(store.runs), store.runs.folder)) == {reused, held}

    def write(partial: Path) -> None:
        os.utime(partial, (0, 0))
        assert partial not in leftovers(CheckedFolders(store.runs), store.runs.folder), "it is being written"
        partial.write_text("whole")

    write_atomically(store.runs.work / "file", write)


def test_repair_completes_an_index_and_blanks_damaged_lines_where_they_are(store: Store):
    index, journal = store.runs.work / "keys" / FINGERPRINT.key[:32], store.run / "journal.jsonl"
    index.unlink()
    good = lines(RECORDS)
    harmed = good.replace(b'{"kind": "begin"', b'{"kind": 17')
    journal.write_bytes(harmed)
    (store.run / "sent.json").write_bytes(b"")
    said = "\n".join(mend_files(CheckedFolders(store.runs), dry_run=True))
    assert index.exists() is False and journal.read_bytes() == harmed
    assert "sent.json is damaged" in said and "1 damaged line" in said and "calm otter: to be found again" in said
    assert len(list(mend_files(CheckedFolders(store.runs), dry_run=False))) == 3
    assert index.read_text() == f"{NAME}\n" and (store.run / "sent.json.damaged").read_bytes() == b""
    assert (store.run / "journal.jsonl.damaged").read_bytes() == harmed
    assert len(journal.read_bytes()) == len(harmed) and len(Journal(store.run).records()) == len(RECORDS) - 1
    assert not list(mend_files(CheckedFolders(store.runs), dry_run=False))


def test_repair_reads_only_what_changed_since_it_was_whole(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checked_folders, "SETTLED_NANOSECONDS", 0)
    progress = {"to": len(lines(RECORDS)), "run_id": "r" * 32, "status": "FINISHED", "experiment_id": "1"}
    (store.run / "sent.json").write_text(json.dumps(progress))
    (result,) = store.runs.work.glob("steps/initialize/*/result.json")

    def look() -> tuple[list[Path], list[str]]:
        folders = CheckedFolders(store.runs)
        with only_looking():
            lines = list(mend_files(folders, dry_run=True))
            pending_runs(store.runs, folders)
            lines += map(str, leftovers(folders, store.runs.folder))
        folders.save()
        return folders.changed, lines

    assert len(look()[0]) > 2
    look()  # the check has made a lock in the run's folder
    assert look() == ([], [])
    for path in (store.run / "sent.json", store.run / "journal.jsonl", result):
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(content.replace(b'"', b"#", 1))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        for _ in range(2):  # damage is not forgotten
            folders, said = look()
            assert folders == [path.parent] and len(said) == 1 and path.name in said[0]
        path.write_bytes(content)
        look()
        assert look() == ([], [])
    (store.run / "sent.json").write_text(json.dumps(progress | {"status": ""}))
    with locked(store.run / "alive.lock"):
        look()
    assert look()[0] == [store.run], "it died meanwhile, and no file says so"
    (result.parent / f".result.json.{2**31 - 1}.partial").touch()
    assert len(look()[1]) == 1
    for index in (store.runs.work / "keys").glob("*"):
        index.unlink()
    assert any("calm otter: to be found again" in line for line in look()[1])


def test_a_receipt_of_another_recorder_with_the_same_process_id_refuses_nothing(store: Store):
    """The system uses process ids again."""
    recorder = Recorder()
    try:
        from torchmill.components.tracking import recorder_process

        recorder_process._recorders[store.run] = recorder
        refusal = {"receipt": "refused", "process": recorder.process.pid, "recorder": "an earlier one"}
        refusal |= {"message": "m", "remedy": "", "unreachable": False}
        (store.run / "receipts.jsonl").write_bytes(lines([refusal, *RECEIPTS]))
        receipt = wait_for_receipt(store.run, lambda receipt: receipt.get("ask") == "e", 5)
        assert receipt and receipt["receipt"] == "ended"
    finally:
        recorder_process._recorders.pop(store.run, None)
        recorder.dismiss()
        recorder.process.wait(60)


def test_a_command_finds_no_server_in_a_damaged_file_at_once(store: Store):
    (store.runs.work / "up.json").write_bytes(b"\xff")
    started = time.monotonic()
    assert ServerAtHand(store.runs)._of_up() == ""
    assert time.monotonic() - started < 1
