"""A smaller model is accepted only if it loses almost nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from tests.slow import slow_but
from torchmill.components.data.samples import Samples, read_sample
from torchmill.components.export import export as exports
from torchmill.components.export import quantize as smaller
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import ParityError, export
from torchmill.components.export.quantize import LabelSubject, quantize
from torchmill.components.export.to_onnx import export_core, write_bare, write_complete
from torchmill.components.onnx_model.run import run
from torchmill.components.onnx_model.session import open_session

CONFIG = ExportConfig(batch_sizes=(64,), int8="on")


@pytest.fixture(scope="module")
def core(exported, toy, tmp_path_factory) -> Path:
    """The bare model of the exported network."""
    path = tmp_path_factory.mktemp("core") / "core.onnx"
    write_bare(export_core(exported.network, toy), toy, {}, path)
    return path


@pytest.fixture(scope="module")
def build(toy) -> Callable[[ir.Model, Path], None]:
    def complete(bare: ir.Model, path: Path) -> None:
        write_complete(bare, toy, {}, path)

    return complete


@pytest.fixture
def faster(monkeypatch):
    """Replace the measured times: they mean something only for whole networks, on idle machines."""

    def speed_up(*arguments) -> float:
        *sessions, inputs = arguments
        assert all(session.run(None, inputs) for session in sessions)
        return 1.5

    monkeypatch.setattr(smaller, "_speed_up", speed_up)


def test_it_is_smaller_and_answers_alike(exported, core, build, toy, toy_test, tmp_path, faster):
    subject = LabelSubject(toy, read_sample(toy, 64, 0), toy_test)
    found = quantize("int8", core, exported.path, build, tmp_path / "small.onnx", subject, 0.05)
    assert found.accepted and found.speed == (1.5, 1.5), found.reason
    assert found.bytes == (tmp_path / "small.onnx").stat().st_size < 0.5 * exported.path.stat().st_size
    plain, small = (
        run(open_session(path), toy_test, 50)[1].argmax(1) for path in (exported.path, tmp_path / "small.onnx")
    )
    assert (plain == small).mean() > 0.95
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 57, 3), dtype=np.uint8)
    outputs = open_session(tmp_path / "small.onnx").run(None, {"pixels": pixels})
    assert [one.shape for one in outputs] == [(2, 10), (2, 10), (2,), (2,)]  # still takes whatever a deployer has


def test_a_calibration_on_what_is_no_data_is_refused(exported, core, build, toy, toy_test, tmp_path, faster):
    black = Samples(torch.zeros(32, 1, 28, 28, dtype=torch.uint8), torch.zeros(32, dtype=torch.int64))
    found = quantize(
        "int8", core, exported.path, build, tmp_path / "small.onnx", LabelSubject(toy, black, toy_test), 0.005
    )
    assert not found.accepted and "allowed is up to 0.50 points" in found.reason
    assert found.loss_high is not None and found.loss_high > 0.005
    assert not (tmp_path / "small.onnx").exists()


def test_one_that_is_not_faster_is_refused(exported, core, build, toy, toy_test, tmp_path, monkeypatch):
    monkeypatch.setattr(smaller, "_speed_up", lambda *_: 0.9)
    subject = LabelSubject(toy, read_sample(toy, 64, 0), toy_test)
    found = quantize("int8", core, exported.path, build, tmp_path / "small.onnx", subject, 0.05)
    assert not found.accepted and "0.90 times as fast at batch size 1" in found.reason


NO_LOSS = CONFIG.model_copy(update={"budget": 0.0, "form": "complete"})


def test_asked_for_it_is_there(trained, toy, toy_test, tmp_path, faster):
    wide = CONFIG.model_copy(update={"budget": 0.1})
    ref = export(trained, toy, toy_test, wide, {}, tmp_path, calibration=read_sample(toy, 64, 0))
    assert [one.path.name for one in ref.smaller] == ["model.int8.onnx"]
    verdict = json.loads((tmp_path / "parity.json").read_text())["smaller"]["int8"]
    assert verdict["accepted"] is True and all(gate["passed"] for gate in verdict["gates"])
    assert {"labels", "pictures", "constant"} < {gate["name"] for gate in verdict["gates"]}


def test_asked_for_it_is_there_or_the_export_fails(trained, toy, toy_test, tmp_path, faster):
    for name in ("model.onnx", "model.int8.onnx"):
        (tmp_path / name).write_text("of an earlier export")
    with pytest.raises(ParityError, match="There is no int8 model: it loses"):
        export(trained, toy, toy_test, NO_LOSS, {}, tmp_path, calibration=read_sample(toy, 64, 0))
    assert not (tmp_path / "model.onnx").exists() and not (tmp_path / "model.int8.onnx").exists()


@pytest.mark.slow
def test_not_asked_for_it_may_be_missing(trained, toy, toy_test, tmp_path, faster):
    config = NO_LOSS.model_copy(update={"int8": "auto"})
    kept = export(trained, toy, toy_test, config, {}, tmp_path, calibration=read_sample(toy, 64, 0))
    assert not kept.smaller and (tmp_path / "model.onnx").exists()
    assert json.loads((tmp_path / "parity.json").read_text())["smaller"]["int8"]["accepted"] is False


def test_a_bare_model_alone_gets_smaller_as_well(trained, toy, toy_test, tmp_path, faster):
    config = CONFIG.model_copy(update={"budget": 0.1, "form": "bare"})
    ref = export(trained, toy, toy_test, config, {}, tmp_path, calibration=read_sample(toy, 64, 0))
    (small,) = ref.smaller
    (takes,) = open_session(small.path).get_inputs()
    assert (takes.name, takes.type) == ("images", "tensor(float)")


def test_half_of_the_bits_answer_alike(exported, core, build, toy, toy_test, tmp_path):
    found = quantize(
        "fp16", core, exported.path, build, tmp_path / "small.onnx", LabelSubject(toy, toy_test, toy_test), 0.05
    )
    assert found.accepted and "can only be measured on a GPU" in found.reason, found.reason
    assert found.bytes and found.bytes < 0.6 * exported.path.stat().st_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 57, 3), dtype=np.uint8)
    plain, small = (
        open_session(path).run(None, {"pixels": pixels}) for path in (exported.path, tmp_path / "small.onnx")
    )
    assert small[0].dtype == np.float32 and 0 < np.abs(small[0] - plain[0]).max() < 0.05
    assert list(small[2]) == list(plain[2])


@pytest.mark.parametrize("bits", slow_but(["int8"], ["int8", "fp16"]))
def test_a_smaller_model_whose_labels_are_wrong_is_refused(bits, trained, toy, toy_test, tmp_path, faster, monkeypatch):
    write = exports.WRITERS["complete"]

    def wrong(core, data, metadata, path, temperature) -> None:
        is_small = path.name == exports.SMALLER[bits]
        classes = data.classes[::-1] if is_small else data.classes
        write(core, data.model_copy(update={"classes": classes}), metadata, path, temperature)

    monkeypatch.setitem(exports.WRITERS, "complete", wrong)
    config = CONFIG.model_copy(update={"int8": "off", bits: "on", "budget": 0.1, "form": "complete"})
    with pytest.raises(ParityError, match=rf"There is no {bits} model: it fails a check: labels: .* not those of the"):
        export(trained, toy, toy_test, config, {}, tmp_path, calibration=read_sample(toy, 64, 0))
    assert not (tmp_path / exports.SMALLER[bits]).exists()
