import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy import made, toy_numbers, toy_tokens
from torchmill.components.config import RunConfig
from torchmill.components.data.samples import read_test
from torchmill.components.evaluation.evaluate import evaluate
from torchmill.components.evaluation.report.charts import Bar, Point, Series, bars, lines
from torchmill.components.evaluation.report.page import Record, write_page
from torchmill.components.export.parity import BatchComparison, Judgement, Parity, as_json
from torchmill.components.export.quantize import Smaller
from torchmill.components.refs import (
    DataRef,
    EvaluationRef,
    ExportRef,
    FileRef,
    FitRef,
    NetworkRef,
    PromotionRef,
    RunRef,
    StepRef,
)

NASTY = '<script>alert("x")</script> & "quotes"'
VOID = {"meta", "br", "img"}


class Tags(HTMLParser):
    """Complains of tags that are not closed; keeps what would be loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.all: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.all.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.all.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def evaluated_and_recorded(network: torch.nn.Module, data: DataRef, folder: Path) -> Record:
    return record(evaluate(network, read_test(data), data, torch.device("cpu"), 64, folder), data, folder)


def record(scores: EvaluationRef, data: DataRef, folder: Path, **changes: object) -> Record:
    gates = [{"name": "constant", "evidence": "3 different answers", "passed": True}]
    int8 = Smaller(False, "it loses 2.00% (up to 3.00%); allowed is up to 0.50%", bytes=100_000, bytes_before=400_000)
    more = {"gates": gates, "smaller": {"int8": int8.as_plain()}}
    (folder / "parity.json").write_text(as_json(compared(scores).as_plain(**more)))
    verdict = {"check": "softmax", "verdict": "warn", "layer": "head", "evidence": NASTY, "remedy": "Remove it."}
    (folder / "check.json").write_text(json.dumps({"worst": "warn", "verdicts": [verdict]}))
    file = FileRef.of(folder / "parity.json")
    reference = NetworkRef(reference="simple_cnn", arguments={}, weights=file, parameters=1234)
    trained = FitRef(
        network=reference,
        weights=file,
        checkpoint=file,
        device="cpu",
        epochs=3,
        best_epoch=3,
        measure=data.measure,
        validation_score=0.9,
        validation_loss=0.3,
        samples_per_second=1000.0,
        stopped_early=False,
    )
    points = [(1, 2.0), (2, 1.0), (3, 0.5)]
    made_up = Record(
        config=RunConfig(seed=7),
        trained=trained,
        scores=scores,
        model=ExportRef(onnx=file, report=file, max_abs_diff=1e-6, agreement=1.0, example=file),
        data=data,
        version="3",
        promotion=PromotionRef(outcome="kept", reason="its score is lower", champion="2", report=file),
        steps={"fit": StepRef(state="ran", seconds=3.0, key="k", why="for the first time")},
        run=RunRef(run_id="r1", name="brave-otter", folder=folder, url=""),
        curves={f"{split}_{what}": points for split in ("train", "validation") for what in ("loss", data.measure)},
        check=FileRef.of(folder / "check.json"),
    )
    return dataclasses.replace(made_up, **changes)  # ty: ignore[invalid-argument-type]


def compared(scores: EvaluationRef, *complaints: str) -> Parity:
    difference = math.inf if complaints else 1e-6
    return Parity(
        samples=scores.samples,
        torch_score=scores.score,
        onnx_score=scores.score,
        score_difference=(0.0, -0.0112, 0.0108),
        max_abs_diff=difference,
        agreement=1.0,
        torch_float32_max_abs_diff=1e-7,
        largest_logit=9.0,
        allowed=1e-4,
        distinct_answers=10,
        by_batch_size=(BatchComparison(1, difference, 1.0, scores.score, scores.samples),),
        complaints=complaints,
        judge=Judgement(np.zeros((1, 1)), np.zeros(1), "classification", np.ones(1), 1e-4),
    )


def read(page: Path) -> tuple[str, Tags]:
    text, tags = page.read_text(encoding="utf-8"), Tags()
    tags.feed(text)
    assert tags.open == []
    return text, tags


def test_the_page_stands_alone_and_says_what_came_out(evaluated, toy, tmp_path):
    kept = record(evaluated, toy, tmp_path)
    page = write_page(kept)
    text, tags = read(page)
    assert page == tmp_path / "report.html" and page.stat().st_size < 5e6
    assert tags.addresses and all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert not tags.all & {"script", "link", "iframe", "object"} and "url(" not in text and "@import" not in text
    assert (
        f"{100 * kept.scores.score:.2f} % <small>test accuracy" in text and "ONNX model gives the same answers" in text
    )
    assert "The last epoch was the best" in text and '<td class="mono">seed</td><td class="mono">7</td>' in text
    assert "points" in text and "-1.12" in text and "3 different answers" in text
    assert "int8 not accepted" in text and "98 KiB instead of 391 KiB" in text
    assert "It stays challenger: its score is lower." in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_names_of_users_are_escaped(trained, toy, tmp_path):
    nasty = toy.model_copy(update={"classes": (NASTY, *toy.classes[1:]), "name": NASTY})
    text, tags = read(write_page(evaluated_and_recorded(trained, nasty, tmp_path)))
    assert "script" not in tags.all and "&lt;script&gt;" in text


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
def test_every_task_has_its_page(tmp_path, task):
    data = toy_numbers(tmp_path, task=task)
    text, _ = read(write_page(evaluated_and_recorded(made("mlp", data), data, tmp_path)))
    assert ("Largest errors" in text) == (task == "regression") == ("answer minus truth" in text)
    assert ("recall (95 %)" in text) == (task != "regression")
    assert ("share of multilabel 0" in text) == (task == "multilabel") == ("calibration error<" in text)


def test_texts_show_their_tokens(tmp_path):
    data = toy_tokens(tmp_path)
    text, _ = read(
        write_page(
            evaluated_and_recorded(
                made("transformer", data, width=16, heads=2, layers=1, feedforward=16), data, tmp_path
            )
        )
    )
    assert 'class="tokens"' in text and "Wrong answers by length" in text


def test_what_failed_is_told_at_the_top(evaluated, toy, tmp_path):
    failed = {"model": None, "version": None, "promotion": None, "failure": f"The ONNX model differs: {NASTY}."}
    kept = record(evaluated, toy, tmp_path, **failed)
    parity = compared(kept.scores, "batch size 1: 3 of 203 answers differ")
    (tmp_path / "parity.json").write_text(as_json(parity.as_plain(first_difference="at layer `features.0`")))
    text, _ = read(write_page(kept))
    assert "no ONNX model is published" in text and "doctor: warn" in text and "Remove it." in text
    assert "<b>The run failed.</b> The ONNX model differs: &lt;script&gt;" in text
    assert "They part at layer `features.0`." in text and "3 of 203 answers differ" in text and "∞" in text
    # One that cannot be exported at all was compared with nothing.
    (tmp_path / "parity.json").unlink()
    assert "<h2>ONNX model</h2>" not in read(write_page(kept))[0]


def test_a_chart_holds_all_points_and_nothing_but_numbers():
    drawn = lines([Series("a", [Point(0, 1), Point(1, 3, 2.5, 3.5)])], "x", "y <b>")
    assert drawn.count("<circle") == 2 and "y &lt;b&gt;" in drawn
    places = [float(value) for value in re.findall(r'c[xy]="([^"]+)"', drawn)]
    assert all(0 <= place <= 360 and math.isfinite(place) for place in places)
    assert lines([], "x", "y") == "" == bars([])
    flat = lines([Series("", [Point(1, 2), Point(1, 2)])], "x", "y")
    assert "nan" not in flat and flat.count("<circle") == 2
    assert "left:50.00%" in bars([Bar("a", 0.5, 0.4, 0.6, "50 %")])
