"""Weights that are too large for an ONNX file are in one file beside it, which both forms share."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from torchmill.components.errors import UserError
from torchmill.components.export import export as exports
from torchmill.components.export import gates, to_onnx
from torchmill.components.export.config import ExportConfig
from torchmill.components.onnx_model.model import open_model
from torchmill.components.onnx_model.proto import weights_beside
from torchmill.components.refs import ExportRef


def make_files_small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(to_onnx, "LARGEST", 10_000)
    patch.setattr(to_onnx, "SMALL_TENSOR", 64)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that hold 10 kB instead of 2 GB."""
    make_files_small(monkeypatch)


@pytest.fixture(scope="module")
def large(_trained, toy, toy_test, tmp_path_factory) -> ExportRef:
    """An export with a file of weights; to look at, not to change."""
    with pytest.MonkeyPatch.context() as patch:
        make_files_small(patch)
        return export(copy.deepcopy(_trained), toy, toy_test, tmp_path_factory.mktemp("large"))


def export(trained, toy, toy_test, folder: Path, **settings):
    folder.mkdir(exist_ok=True)
    config = ExportConfig(batch_sizes=(7, 64), **settings)
    return exports.export(trained, toy, toy_test, config, {"run": "a"}, folder)


def test_both_forms_share_a_file_of_weights(large, trained, toy, toy_test, tmp_path):
    weights = large.onnx.path.parent / "model.weights"
    assert [file.path for file in large.weights] == [weights] and weights in [file.path for file in large.files]
    assert large.identity()["the model's weights 1"] == large.weights[0].sha256
    assert {path.name for path in weights.parent.iterdir()} == {
        *("model.onnx", "model.bare.onnx", "model.weights"),
        *("config.pbtxt", "example.npz", "parity.json"),
    }
    for file in (large.onnx, large.bare):
        proto = onnx.load(file.path, load_external_data=False)
        assert weights_beside(proto) and file.path.stat().st_size < 40_000 < weights.stat().st_size
        onnx.checker.check_model(str(file.path), full_check=True)
    plain = export(trained, toy, toy_test, tmp_path / "plain")
    assert not plain.weights
    pixels = toy_test.inputs[:9].numpy()
    for one, other in ((large.onnx, plain.onnx), (large.bare, plain.bare)):
        assert np.array_equal(open_model(one.path).outputs(pixels), open_model(other.path).outputs(pixels))
    findings = [
        {gate["name"]: gate["evidence"] for gate in json.loads(ref.report.path.read_text())["gates"]}
        for ref in (large, plain)
    ]
    assert findings[0] == findings[1]


def test_a_bare_form_of_its_own_has_its_own_weights(trained, toy, toy_test, tmp_path, small_files):
    ref = export(trained, toy, toy_test, tmp_path, batch=2, form="bare")
    assert [file.path.name for file in ref.weights] == ["model.bare.weights"]
    assert not (tmp_path / "model.weights").exists()  # those of the form that was not asked for
    assert open_model(ref.onnx.path).outputs(toy_test.inputs[:2].numpy()).shape == (2, 10)


def test_a_model_without_its_weights_says_which_file_it_needs(large, tmp_path):
    alone = shutil.copy(large.onnx.path, tmp_path)
    with pytest.raises(UserError, match=r"model\.weights"):
        open_model(Path(alone))


def test_a_wrong_model_is_found_with_weights_beside_it(trained, toy, toy_test, tmp_path, small_files, monkeypatch):
    write = exports.WRITERS["complete"]

    def wrong(core, *arguments, **more) -> None:
        value = next(value for value in core.graph.initializers.values() if value.name == "fc2.bias")
        value.const_value = to_onnx.ir.tensor(np.ones(value.const_value.shape, np.float32), name=value.name)
        write(core, *arguments, **more)

    monkeypatch.setitem(exports.WRITERS, "complete", wrong)
    with pytest.raises(exports.ParityError, match=r"differs from the network: .* They part behind"):
        export(trained, toy, toy_test, tmp_path)
    assert (tmp_path / "model.rejected.onnx").exists() and not (tmp_path / "model.onnx").exists()


def test_small_errors_in_weights_beside_a_model_are_noticed(large, tmp_path, monkeypatch):
    shutil.copytree(large.onnx.path.parent, tmp_path, dirs_exist_ok=True)
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    make_files_small(monkeypatch)
    monkeypatch.setattr(gates, "MOST_NOISY", 50_000)
    noisy = gates.noisy(proto, 1e-2, tmp_path)
    assert noisy and weights_beside(noisy)  # the largest are too large to be changed
    changed = [weight.name for weight in noisy.graph.initializer if weight not in proto.graph.initializer]
    assert changed
