"""A run's records reach the disk first, whatever happens to the disk or the process."""

import json
import logging
from pathlib import Path

import pytest

from torchmill.components.errors import UserError
from torchmill.components.refs import RunRef, StepRef
from torchmill.components.tracking.journal import Journal
from torchmill.components.tracking.run_log import log_files, log_metrics, replay


def metrics(step: int) -> dict:
    return {"kind": "metrics", "step": step, "time": 0, "values": {}}


def steps_in(folder: Path) -> list[int]:
    return [record["step"] for record in Journal(folder).records()]


def test_a_line_cut_off_by_a_kill_damages_no_other_line(tmp_path: Path):
    Journal(tmp_path).append(metrics(1))
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"kind": "metrics", "st')
    assert steps_in(tmp_path) == [1]
    Journal(tmp_path).append(metrics(2))
    assert steps_in(tmp_path) == [1, 2]


def test_on_a_full_disk_records_wait_in_memory_and_none_is_lost_or_repeated(
    tmp_path: Path, small_disk, caplog: pytest.LogCaptureFixture
):
    journal = Journal(tmp_path)
    journal.append(metrics(0))
    with small_disk(70), caplog.at_level(logging.WARNING):
        for step in range(1, 5):  # a part of the first one fits
            journal.append(metrics(step))
        with pytest.raises(UserError, match="Is the disk full"):
            journal.sync()
    assert "It is tried again" in caplog.text
    journal.append(metrics(5))
    assert steps_in(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_metrics_that_are_not_finite_are_left_out(tmp_path: Path):
    run = RunRef(run_id="r", name="n", folder=tmp_path, url="")
    log_metrics(run, {"loss": float("nan"), "lr": 0.5, "norm": float("inf")}, step=3)
    (record,) = Journal(tmp_path).records()
    assert record["values"] == {"lr": 0.5}


def test_replay_copies_one_step_of_another_run_with_its_files(tmp_path: Path):
    source, own = tmp_path / "source", tmp_path / "own"
    source.mkdir()
    own.mkdir()
    first = RunRef(run_id="1", name="one", folder=source, url="")
    second = RunRef(run_id="2", name="two", folder=own, url="")
    (source / "best.bin").write_bytes(b"weights")
    journal = Journal(source)
    log_metrics(first, {"before": 1.0})
    journal.append({"kind": "begin", "name": "fit"})
    log_metrics(first, {"loss": 0.5}, step=1)
    journal.append({"kind": "begin", "name": "fit"})  # killed, then resumed
    log_metrics(first, {"loss": 0.4}, step=2)
    log_files(first, [source / "best.bin"], "weights")
    step = StepRef(state="ran", seconds=3.0, key="k", why="for the first time")
    journal.append({"kind": "step", "name": "fit", "step": step.model_dump()})
    log_metrics(first, {"seconds.fit": 3.0})

    replay(second, source, "fit")
    records = Journal(own).records()
    assert [(record["step"], record["values"]) for record in records if record["kind"] == "metrics"] == [
        (1, {"loss": 0.5}),
        (2, {"loss": 0.4}),
    ]
    (files,) = (record for record in records if record["kind"] == "files")
    assert (own / files["paths"][0]).read_bytes() == b"weights" and files["folder"] == "weights"


def test_every_record_is_one_write_so_that_processes_dont_mix_their_lines(tmp_path: Path):
    first, second = Journal(tmp_path), Journal(tmp_path)
    for step in range(50):
        (first if step % 2 else second).append(metrics(step))
    lines = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(50))
