"""The comparison notices faults of an ONNX model, and accepts equal ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from tests.slow import slow_but
from tests.toy import toy_data
from torchmill.components.data.samples import Samples
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.parity import Parity, compare, predict_double
from torchmill.components.export.to_onnx import to_onnx
from torchmill.components.initialization.standardized_model import StandardizedModel
from torchmill.components.onnx_model.run import run
from torchmill.components.onnx_model.session import open_session

SIZES, TOLERANCE = ExportConfig().batch_sizes, ExportConfig().tolerance
FEW = (1, 256)


@pytest.fixture
def judge(exported, toy, toy_test, tmp_path) -> Callable[[onnx.ModelProto], Parity]:
    """Compare a changed model with the network."""

    def compared(proto: onnx.ModelProto, sizes: tuple[int, ...] = FEW) -> Parity:
        onnx.save(proto, tmp_path / "changed.onnx")
        return compare(tmp_path / "changed.onnx", exported.network, toy, toy_test, sizes, TOLERANCE)

    return compared


def weight(proto: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(one for one in proto.graph.initializer if one.name.endswith(name))).copy()


def replace(proto: onnx.ModelProto, name: str, values: np.ndarray) -> onnx.ModelProto:
    one = next(one for one in proto.graph.initializer if one.name.endswith(name))
    one.CopyFrom(numpy_helper.from_array(values.astype(np.float32), one.name))
    return proto


def after(proto: onnx.ModelProto, op: str, inputs: list[onnx.TensorProto], **attributes: object) -> onnx.ModelProto:
    """Append a node to the graph's last one."""
    last = next(node for node in proto.graph.node if "logits" in node.output)
    last.output[0] = "before"
    proto.graph.initializer.extend(inputs)
    names = ["before", *(one.name for one in inputs)]
    proto.graph.node.append(helper.make_node(op, names, ["logits"], **attributes))
    return proto


def constant(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def test_a_sound_model_passes_at_every_batch_size(exported, toy, toy_test):
    parity = compare(exported.path, exported.network, toy, toy_test, (1, 2, 7, 256), TOLERANCE)
    assert parity.passed and parity.complaints == ()
    assert [one.batch_size for one in parity.by_batch_size] == [1, 2, 7, 256]
    assert parity.max_abs_diff == max(one.max_abs_diff for one in parity.by_batch_size) < parity.allowed / 5
    assert parity.agreement == 1 and parity.samples == 203 and parity.distinct_answers == 10
    assert parity.allowed == pytest.approx(TOLERANCE * parity.largest_logit)


def test_what_is_measured_is_what_numpy_measures(exported, toy, toy_test):
    parity = compare(exported.path, exported.network, toy, toy_test, (64,), TOLERANCE)
    logits = run(open_session(exported.path), toy_test, 203)[1]
    double = predict_double(StandardizedModel.of(exported.network, toy).eval(), toy_test)
    assert double.dtype == np.float64
    assert parity.max_abs_diff == pytest.approx(np.abs(logits - double).max(), rel=0.5)
    assert parity.largest_logit == np.abs(double).max()
    truth = toy_test.labels.numpy()
    assert parity.onnx_score == (logits.argmax(1) == truth).mean()
    assert parity.torch_score == (double.argmax(1) == truth).mean()


LAYERS = [
    "conv1.weight",
    "conv1.bias",
    "conv2.weight",
    "conv2.bias",
    "fc1.weight",
    "fc1.bias",
    "fc2.weight",
    "fc2.bias",
]


@pytest.mark.parametrize("layer", slow_but(("conv1.weight", "fc2.weight"), LAYERS[::2]))
def test_a_layers_weights_off_by_a_thousandth_are_seen(exported, judge, layer):
    proto = exported.proto()
    changed = replace(proto, layer, weight(proto, layer) * 1.001)
    assert not judge(changed).passed


@pytest.mark.parametrize("layer", slow_but(("conv1.weight", "fc2.bias"), LAYERS))
def test_one_weight_that_matters_off_by_a_tenth_is_seen(exported, judge, layer):
    proto = exported.proto()
    values = weight(proto, layer)
    values.flat[np.abs(values).argmax()] += 0.1
    parity = judge(replace(proto, layer, values))
    assert not parity.passed and "differs by" in parity.complaints[0]


def test_one_element_of_the_last_layer_off_by_a_hundredth_is_seen(exported, judge):
    for layer in ("fc2.weight", "fc2.bias"):
        proto = exported.proto()
        values = weight(proto, layer)
        values.flat[7] += 0.01
        assert not judge(replace(proto, layer, values)).passed


def test_weights_in_half_precision_are_seen(exported, judge):
    proto = exported.proto()
    for layer in LAYERS:
        replace(proto, layer, weight(proto, layer).astype(np.float16).astype(np.float32))
    assert not judge(proto).passed


def test_two_swapped_answers_are_seen(exported, judge):
    proto = exported.proto()
    for layer in ("fc2.weight", "fc2.bias"):
        replace(proto, layer, weight(proto, layer)[[1, 0, *range(2, 10)]])
    parity = judge(proto)
    assert parity.agreement < 0.9
    assert any("answers differ" in complaint for complaint in parity.complaints)


def test_two_swapped_rows_of_a_batch_are_seen_at_the_size_where_it_happens(exported, judge):
    last_first = after(exported.proto(), "ReverseSequence", [], batch_axis=1, time_axis=0)
    # A length for every class: the whole batch, which is one at batch size 1.
    last = last_first.graph.node[-1]
    shape = [
        helper.make_node("Shape", ["before"], ["rows"], start=0, end=1),
        helper.make_node("Expand", ["rows", "classes"], ["lengths"]),
    ]
    last_first.graph.initializer.append(constant("classes", 10))
    last.input.append("lengths")
    for node in shape:
        last_first.graph.node.insert(len(last_first.graph.node) - 1, node)
    parity = judge(last_first, (1, 7))
    assert [one.agreement == 1 for one in parity.by_batch_size] == [True, False]
    assert all(complaint.startswith("batch size 7") for complaint in parity.complaints)


@pytest.mark.parametrize("name", ["offset", "scale"])
def test_another_normalisation_is_seen(exported, judge, name):
    proto = exported.proto()
    assert not judge(replace(proto, name, weight(proto, name) * 1.01)).passed


def test_swapped_channels_are_seen(tmp_path):
    data = toy_data(tmp_path, channels=3, size=8, train=30, test=30)
    pixels = torch.from_numpy(np.load(tmp_path / "test_inputs.npy"))
    test = Samples(pixels, torch.from_numpy(np.load(tmp_path / "test_labels.npy")))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 10))
    to_onnx(network, data, {}, tmp_path / "model.onnx")
    assert compare(tmp_path / "model.onnx", network, data, test, FEW, TOLERANCE).passed
    proto = onnx.load(tmp_path / "model.onnx")
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            if name == "prepared":
                node.input[at] = "swapped"
    proto.graph.initializer.append(constant("order", 2, 1, 0))
    at = next(number for number, node in enumerate(proto.graph.node) if "prepared" in node.output)
    proto.graph.node.insert(at + 1, helper.make_node("Gather", ["prepared", "order"], ["swapped"], axis=1))
    onnx.save(proto, tmp_path / "model.onnx")
    assert not compare(tmp_path / "model.onnx", network, data, test, FEW, TOLERANCE).passed


def test_a_fixed_batch_is_seen(exported, judge):
    proto = exported.proto()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    parity = judge(proto, (1, 2))
    assert not parity.passed
    assert parity.complaints[0].startswith("batch size 2: onnxruntime fails: ") and len(parity.complaints) == 1


def test_logits_of_another_shape_are_seen(exported, judge):
    shorter = after(exported.proto(), "Gather", [constant("first", *range(9))], axis=1)
    shorter.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    parity = judge(shorter)
    assert parity.complaints[0] == "batch size 1: outputs of shape (203, 9) instead of (203, 10)"


def test_a_logit_that_is_no_number_is_seen(exported, judge):
    proto = exported.proto()
    bias = weight(proto, "fc2.bias")
    bias[3] = np.nan
    parity = judge(replace(proto, "fc2.bias", bias))
    assert not parity.passed and parity.max_abs_diff == np.inf


def test_a_network_whose_own_logits_are_no_numbers_does_not_pass(trained, toy, toy_test, tmp_path):
    with torch.no_grad():
        trained.fc2.weight *= 1e38  # more than float32 holds, and no trouble to float64
        trained.fc1.weight *= 1e3
    to_onnx(trained, toy, {}, tmp_path / "model.onnx")
    with np.errstate(all="ignore"):
        parity = compare(tmp_path / "model.onnx", trained, toy, toy_test, FEW, TOLERANCE)
    assert "not finite" in parity.complaints[0]


def test_large_logits_may_differ_by_more_and_small_ones_may_not(trained, toy, toy_test, tmp_path):
    for factor in (1e-6, 1e3):
        with torch.no_grad():
            trained.fc2.weight *= factor
            trained.fc2.bias *= factor
        to_onnx(trained, toy, {}, tmp_path / "model.onnx")
        parity = compare(tmp_path / "model.onnx", trained, toy, toy_test, (256,), TOLERANCE)
        assert parity.passed
        assert parity.allowed == pytest.approx(TOLERANCE * max(1.0, parity.largest_logit))
        assert (parity.largest_logit < 1e-3) is (factor < 1) and (parity.largest_logit > 1e3) is (factor > 1)
        with torch.no_grad():
            trained.fc2.weight /= factor
            trained.fc2.bias /= factor


def test_a_network_with_constants_of_its_own_precision_is_told_in_words(toy, toy_test):
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(784, 10)
            self.table = torch.eye(784)  # no buffer: double() does not reach it

        def forward(self, x):
            return self.out(x.flatten(1) @ self.table)

    with pytest.raises(UserError, match=r"Stubborn cannot be run in float64.*register_buffer"):
        predict_double(StandardizedModel.of(Stubborn(), toy), toy_test)


def test_the_network_itself_stays_in_its_precision(exported, toy, toy_test):
    predict_double(StandardizedModel.of(exported.network, toy), toy_test)
    assert {parameter.dtype for parameter in exported.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("size", [1, 2, 7, 203, 1000])
def test_batches_cover_all_samples_in_their_order(exported, toy_test, size):
    session = open_session(Path(exported.path))
    batches, logits = run(session, toy_test, size)
    inputs = [batch["pixels"] for batch in batches]
    assert np.array_equal(np.concatenate(inputs), toy_test.inputs.numpy())
    assert [len(batch) for batch in inputs[:-1]] == [size] * (len(inputs) - 1) and len(inputs[-1]) <= size
    np.testing.assert_allclose(logits, run(session, toy_test, 50)[1], rtol=1e-3, atol=1e-4)
