"""ONNX models of tasks over named fields: inputs and outputs by name, and their proof."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.components.training.test_field_training import CASES, MORE
from tests.toy_fields import own_data
from torchmill.components.data.field_samples import read_field_sample, read_fields
from torchmill.components.errors import UserError
from torchmill.components.export import quantize
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import ParityError
from torchmill.components.export.field_export import export_fields, write_compared
from torchmill.components.export.field_gates import field_gates
from torchmill.components.field_tasks.field_task import FieldTask
from torchmill.components.initialization.build import build
from torchmill.components.initialization.fields_model import FieldsModel
from torchmill.components.onnx_model.session import open_session

NAMES = {
    "segmentation": (["image"], ["probabilities", "mask"]),
    "two inputs": (["left", "right"], ["distance"]),
    "ragged": (["tokens", "lengths"], ["logits"]),
    "phases": (["noise"], ["image"]),
}


def made(folder: Path, case: str, more: str = ""):
    function, task, model, arguments, _ = CASES[case]
    data = own_data(folder, function, task, MORE + more)
    torch.manual_seed(0)
    network = build(model if model.islower() else f"{folder}/own.py:{model}", arguments, data)
    return data, network.eval()


@pytest.mark.parametrize("case", NAMES)
def test_inputs_and_outputs_have_names_and_any_size(tmp_path, case):
    data, network = made(tmp_path, case)
    test = read_fields(data, "test")
    model = export_fields(network, data, test, ExportConfig(batch_sizes=(1, 5)), {}, tmp_path)
    session = open_session(model.onnx.path)
    inputs, outputs = NAMES[case]
    assert [entry.name for entry in session.get_inputs()] == inputs
    assert [entry.name for entry in session.get_outputs()] == outputs
    parity = json.loads(model.report.path.read_text())
    assert parity["passed"] and parity["max_abs_diff"] <= parity["allowed"] and parity["gates"][0]["passed"]
    with np.load(model.example.path) as example:
        answers = session.run(outputs, {name: example[name][:3] for name in inputs})
        for name, answer in zip(outputs, answers, strict=True):
            np.testing.assert_allclose(answer, example[name][:3], rtol=1e-4, atol=1e-5)


def test_the_model_answers_as_the_task_does(tmp_path):
    data, network = made(tmp_path, "two inputs")
    test = read_fields(data, "test")
    session = open_session(export_fields(network, data, test, ExportConfig(), {}, tmp_path).onnx.path)
    batch = test.take(torch.arange(6))
    model = FieldsModel.of(network, data)
    with torch.no_grad():
        expected = FieldTask.open(data).predict(model, model.prepared(batch))["distance"]
    (answer,) = session.run(None, {name: batch[name].numpy() for name in ("left", "right")})
    np.testing.assert_allclose(answer, expected, rtol=1e-4)


PEEKS = """
class Peeks(Distance):
    def predict(self, network, inputs):
        return {"distance": super().predict(network, inputs)["distance"] * inputs["same"]}
"""


def test_answers_that_depend_on_a_target_are_refused(tmp_path):
    data = own_data(tmp_path, "pairs", "Peeks", PEEKS)
    network = build(f"{tmp_path}/own.py:Both", {}, data)
    with pytest.raises(UserError, match="reads the target 'same', which nobody knows beforehand"):
        export_fields(network, data, read_fields(data, "test"), ExportConfig(), {}, tmp_path)


def test_a_model_that_differs_is_refused_and_nothing_is_left_in_its_place(tmp_path, monkeypatch):
    data, network = made(tmp_path, "two inputs")
    test = read_fields(data, "test")
    from torchmill.components.export import field_export

    write = field_export.write_fields_model

    def other_weights(module, *arguments):
        weight = module.model.network.body.weight
        with torch.no_grad():
            weight.add_(0.01)
            write(module, *arguments)
            weight.sub_(0.01)

    monkeypatch.setattr(field_export, "write_fields_model", other_weights)
    with pytest.raises(ParityError, match="differs from the network: batch size 1: distance"):
        export_fields(network, data, test, ExportConfig(), {}, tmp_path)
    assert not (tmp_path / "model.onnx").exists() and (tmp_path / "model.rejected.onnx").exists()


def test_answers_that_hardly_depend_on_the_network_have_no_proof(tmp_path):
    data, network = made(tmp_path, "two inputs")
    with torch.no_grad():
        network.body.weight.zero_()
    with pytest.raises(ParityError, match=r"error of 0\.01 in the weights would not be noticed"):
        export_fields(network, data, read_fields(data, "test"), ExportConfig(), {}, tmp_path)


GATES = {
    "segmentation": ["constant", "power", "runtime"],
    "ragged": ["constant", "lengths", "power", "runtime"],
    "phases": ["constant", "power", "runtime"],
}


@pytest.mark.parametrize("case", GATES)
def test_a_model_has_to_stand_the_gates(tmp_path, case):
    pytest.importorskip("openvino", reason="the extra 'gates' is not installed")
    data, network = made(tmp_path, case)
    model = export_fields(network, data, read_fields(data, "test"), ExportConfig(batch_sizes=(1, 5)), {}, tmp_path)
    gates = json.loads(model.report.path.read_text())["gates"]
    assert [gate["name"] for gate in gates] == GATES[case]
    assert all(gate["passed"] for gate in gates)
    assert gates[-1]["evidence"].startswith("OpenVINO gives the same answers")
    assert model.triton and "dynamic_batching" in model.triton.path.read_text()


def test_a_gate_names_the_answer_that_is_wrong(tmp_path):
    data, network = made(tmp_path, "two inputs")
    exported = write_compared(network, data, read_fields(data, "test"), ExportConfig(batch_sizes=(1,)), {}, tmp_path)
    candidate = exported.candidate
    wrong = {name: values + 1 for name, values in candidate.exact.items()}
    gates = field_gates(replace(candidate, exact=wrong), without=("power",))
    assert [gate.name for gate in gates if not gate.passed] == ["runtime"]
    assert "distance differs by 1" in gates[-1].evidence


@pytest.mark.parametrize("bits", ["int8", "fp16"])
def test_smaller_models_are_judged_by_the_tasks_measure(tmp_path, monkeypatch, bits):
    monkeypatch.setattr(quantize, "_speed_up", lambda *_: 1.5)  # times mean something on idle machines only
    data, network = made(tmp_path, "segmentation")
    test, few = read_fields(data, "test"), read_field_sample(data, 32, seed=0)
    config = ExportConfig(batch_sizes=(1, 5), budget=0.2, **{bits: "on"})
    model = export_fields(network, data, test, config, {}, tmp_path, few)
    assert [file.path.name for file in model.smaller] == [f"model.{bits}.onnx"]
    verdict = json.loads(model.report.path.read_text())["smaller"][bits]
    assert verdict["accepted"] and "it loses" in verdict["reason"] and all(gate["passed"] for gate in verdict["gates"])
    session = open_session(model.smaller[0].path)
    assert [entry.name for entry in session.get_inputs()] == ["image"]


def test_a_smaller_model_that_is_not_faster_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(quantize, "_speed_up", lambda *_: 0.9)
    data, network = made(tmp_path, "segmentation")
    config = ExportConfig(batch_sizes=(1, 5), budget=0.2, int8="on")
    few = read_field_sample(data, 32, seed=0)
    with pytest.raises(ParityError, match=r"There is no int8 model: it loses .* 0.90 times as fast"):
        export_fields(network, data, read_fields(data, "test"), config, {}, tmp_path, few)
    assert not (tmp_path / "model.onnx").exists() and not (tmp_path / "model.int8.onnx").exists()
