"""The gates stop unsound models, and let sound ones pass."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from tests.components.models.test_contract import EXPORTED
from tests.toy import made, toy_data, toy_tokens, with_different_answers
from torchmill.components.data.samples import read_test
from torchmill.components.export import export as exporting
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import ParityError, export
from torchmill.components.export.other_runtime import has_openvino
from torchmill.components.export.to_onnx import export_core, to_onnx, write_bare
from torchmill.components.refs import DataRef

CONFIG = ExportConfig(batch_sizes=(1, 7, 256))

Change = Callable[[onnx.ModelProto, np.random.Generator], None]


def weights(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [one for one in proto.graph.initializer if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1]


def changed(one: onnx.TensorProto, values: np.ndarray) -> None:
    one.CopyFrom(numpy_helper.from_array(values.astype(np.float32), one.name))


def all_weights(share: float) -> Change:
    def change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
        for one in weights(proto):
            values = numpy_helper.to_array(one)
            changed(one, values * (1 + share * rng.standard_normal(values.shape)))

    return change


def one_weight(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    one = max(weights(proto)[:2], key=lambda weight: np.prod(weight.dims))
    values = numpy_helper.to_array(one).copy()
    values.flat[np.abs(values).argmax()] *= 1.05 + rng.random()
    changed(one, values)


def stale(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    """The weights of an epoch before."""
    for one in weights(proto):
        values = numpy_helper.to_array(one)
        changed(one, values - 3e-3 * rng.standard_normal(values.shape))


def half_precision(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for one in weights(proto):
        changed(one, numpy_helper.to_array(one).astype(np.float16))


def named(name: str, factor: float) -> Change:
    def change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
        one = next(one for one in proto.graph.initializer if one.name.endswith(name))
        changed(one, numpy_helper.to_array(one) * factor)

    return change


def before_the_network(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Change:
    """Insert other nodes between the preparation and the network."""

    def change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
        at = 1 + next(place for place, node in enumerate(proto.graph.node) if "prepared" in node.output)
        for node in list(proto.graph.node)[at:]:
            for place, name in enumerate(node.input):
                if name == "prepared":
                    node.input[place] = "other"
        for number, node in enumerate(nodes):
            proto.graph.node.insert(at + number, node)
        proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    return change


swapped_channels = before_the_network(
    helper.make_node("Gather", ["prepared", "order"], ["other"], axis=1), order=np.array([2, 1, 0])
)
transposed = before_the_network(helper.make_node("Transpose", ["prepared"], ["other"], perm=[0, 1, 3, 2]))
mirrored = before_the_network(
    helper.make_node("Gather", ["prepared", "backwards"], ["other"], axis=3), backwards=np.arange(11, -1, -1)
)


def swapped_classes(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for one in proto.graph.initializer:
        if one.name.endswith(("out.weight", "out.bias")):
            changed(one, numpy_helper.to_array(one)[[1, 0, 2]])


def other_label_names(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for constant in proto.graph.initializer:
        if constant.data_type == onnx.TensorProto.STRING:
            constant.string_data.insert(0, constant.string_data.pop(1))


def other_labels_told(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for entry in proto.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(json.loads(entry.value)[::-1])


def fixed_batch(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def fixed_size(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Takes pictures of training's size alone."""
    for side, length in zip(proto.graph.input[0].type.tensor_type.shape.dim[1:], (3, 12, 12), strict=True):
        side.dim_value = length


def wrong_temperature(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
    for node in proto.graph.node:
        if node.op_type == "Softmax":
            node.op_type = "Sigmoid"
            del node.attribute[:]


CORRUPTIONS: dict[str, Change] = {
    "all weights off by 1 %": all_weights(0.01),
    "all weights off by a thousandth": all_weights(0.001),
    "a weight of the first layers": one_weight,
    "weights of an epoch before": stale,
    "weights in half precision": half_precision,
    "another mean": named("offset", 1.02),
    "another deviation": named("scale", 0.98),
    "the first layer doubled": named("conv.weight", 2.0),
    "the first layer zero": named("conv.weight", 0.0),
    "the last layer negative": named("out.weight", -1.0),
    "the last bias a tenth more": named("out.bias", 1.1),
    "swapped channels": swapped_channels,
    "height and width exchanged": transposed,
    "mirrored": mirrored,
    "two classes exchanged": swapped_classes,
    "names of classes in another order": other_label_names,
    "labels in the metadata in another order": other_labels_told,
    "a fixed batch": fixed_batch,
    "a fixed size of pictures": fixed_size,
    "probabilities that are none": wrong_temperature,
}


class Coloured(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4 * 10 * 10, 3)

    def forward(self, x):
        return self.out(self.conv(x).relu().flatten(1))


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> DataRef:
    return toy_data(tmp_path_factory.mktemp("colours"), classes=3, channels=3, size=12, train=60, test=60)


@pytest.fixture(scope="module")
def coloured(colours) -> tuple[nn.Module, bytes, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Coloured()
    path = colours.folder / "sound.onnx"
    to_onnx(network, colours, {}, path)
    return network, path.read_bytes(), path


def corrupt(monkeypatch: pytest.MonkeyPatch, form: str, sound: bytes, change: Change) -> None:
    """Replace one form of each exported model by a changed one."""

    def write(_core: object, _data: DataRef, _metadata: object, path: Path, _temperature: float) -> None:
        proto = onnx.load_from_string(sound)
        change(proto, np.random.default_rng(0))
        assert proto.SerializeToString() != sound
        onnx.save(proto, path)

    monkeypatch.setitem(exporting.WRITERS, form, write)


def test_twenty_corruptions():
    assert len(CORRUPTIONS) == 20


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_what_is_corrupt_is_stopped(colours, coloured, tmp_path, monkeypatch, corruption: str):
    network, sound, _ = coloured

    corrupt(monkeypatch, "complete", sound, CORRUPTIONS[corruption])
    with pytest.raises(ParityError, match="Nothing is published"):
        export(network, colours, read_test(colours), CONFIG, {}, tmp_path)
    assert not list(tmp_path.glob("model*.onnx")) or {path.name for path in tmp_path.glob("*.onnx")} == {
        "model.rejected.onnx",
        "model.bare.rejected.onnx",
    }
    told = json.loads((tmp_path / "parity.json").read_text())
    assert not told["passed"]


def other_metadata(key: str, value: str) -> Change:
    def change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
        (entry,) = (entry for entry in proto.metadata_props if entry.key == key)
        entry.value = value

    return change


def inserted(node: onnx.NodeProto, at: int, **constants: np.ndarray) -> Change:
    """Insert a node between an input (at 0) or output (at -1) and the network."""

    def change(proto: onnx.ModelProto, rng: np.random.Generator) -> None:
        graph = proto.graph
        if at == 0:
            for user in graph.node:
                user.input[:] = ["other" if name == "images" else name for name in user.input]
            graph.node.insert(0, node)
        else:
            graph.node[-1].output[0] = "raw"
            graph.node.append(node)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())

    return change


BARE_CORRUPTIONS: dict[str, Change] = {
    **{
        name: change
        for name, change in CORRUPTIONS.items()
        if name.startswith(
            ("all weights", "a weight", "weights", "the ", "two classes", "labels in the metadata", "a fixed batch")
        )
    },
    "another mean in the metadata": other_metadata("mean", "[0.3, 0.3, 0.3]"),
    "another deviation in the metadata": other_metadata("std", "[0.2, 0.2, 0.2]"),
    "channels in another order": inserted(
        helper.make_node("Gather", ["images", "order"], ["other"], axis=1), 0, order=np.array([2, 1, 0])
    ),
    "sides exchanged": inserted(helper.make_node("Transpose", ["images"], ["other"], perm=[0, 1, 3, 2]), 0),
    "mirrored": inserted(
        helper.make_node("Gather", ["images", "backwards"], ["other"], axis=3), 0, backwards=np.arange(11, -1, -1)
    ),
    "standardised twice": inserted(helper.make_node("Mul", ["images", "half"], ["other"]), 0, half=np.float32(0.5)),
    "probabilities for logits": inserted(helper.make_node("Softmax", ["raw"], ["logits"]), -1),
    "negative logits": inserted(helper.make_node("Neg", ["raw"], ["logits"]), -1),
}


def test_twenty_bare_corruptions():
    assert len(BARE_CORRUPTIONS) == 20


@pytest.fixture(scope="module")
def bare(colours, coloured) -> bytes:
    path = colours.folder / "bare.onnx"
    write_bare(export_core(coloured[0], colours), colours, {}, path)
    return path.read_bytes()


@pytest.mark.parametrize("corruption", BARE_CORRUPTIONS)
def test_a_corrupt_bare_model_is_stopped(colours, coloured, bare, tmp_path, monkeypatch, corruption: str):
    corrupt(monkeypatch, "bare", bare, BARE_CORRUPTIONS[corruption])
    config = CONFIG.model_copy(update={"form": "bare"})
    with pytest.raises(ParityError, match=r"The bare ONNX model .*Nothing is published"):
        export(coloured[0], colours, read_test(colours), config, {}, tmp_path)
    assert not (tmp_path / "model.bare.onnx").exists()


def test_the_file_that_is_corrupted_is_sound_itself(colours, coloured, tmp_path):
    export(coloured[0], colours, read_test(colours), CONFIG, {}, tmp_path)
    told = json.loads((tmp_path / "parity.json").read_text())
    judge = "runtime" if has_openvino() else "reference"
    assert [gate["name"] for gate in told["gates"]] == ["labels", "pictures", "constant", "power", judge]
    assert [gate["name"] for gate in told["bare"]["gates"]] == ["labels", "constant", "power", judge]
    assert all(gate["passed"] for gate in (*told["gates"], *told["bare"]["gates"]))


class Gathering(nn.Module):
    """torch.gather along an axis of another length: onnx's own implementation of GatherElements fails on it."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, images):
        order = images[:, :1, :2, :3].argsort(3)
        return self.out(torch.gather(images, 3, order.expand(-1, -1, 2, 3))[:, 0].flatten(1))


def test_a_judge_that_fails_by_itself_refuses_nothing(colours, tmp_path):
    torch.manual_seed(0)
    network = with_different_answers(Gathering(), read_test(colours), colours)
    export(network, colours, read_test(colours), CONFIG, {}, tmp_path)
    gates = {gate["name"]: gate for gate in json.loads((tmp_path / "parity.json").read_text())["gates"]}
    assert gates["reference"]["passed"] and "not available, " in gates["reference"]["evidence"]


def test_where_they_part_is_told(colours, coloured, tmp_path, monkeypatch):
    network, sound, _ = coloured

    corrupt(monkeypatch, "complete", sound, named("out.weight", 1.5))
    with pytest.raises(ParityError, match=r"They part behind layer conv \(Conv2d\), at out \(Linear\)\."):
        export(network, colours, read_test(colours), CONFIG, {}, tmp_path)


def test_a_network_that_answers_one_thing_alone_is_stopped(colours, tmp_path):
    network = Coloured()
    with torch.no_grad():
        network.out.bias[1] = 1e3
    with pytest.raises(ParityError, match="constant: the network gives all 60 samples the same answer"):
        export(network, colours, read_test(colours), CONFIG, {}, tmp_path)


SOUND = [
    ("tokens", "rnn", {"hidden": 8, "embedding": 8, "cell": "gru", "layers": 1}),
    ("tokens", "transformer", {"width": 16, "heads": 2, "layers": 2, "feedforward": 16, "pooling": "mean"}),
    *(
        ("colours", f"torchvision:{name}", {})
        for name in (
            *("resnet18", "resnet34", "densenet121", "mobilenet_v2", "regnet_y_400mf", "shufflenet_v2_x0_5"),
            *("resnet50", "regnet_x_400mf"),
        )
    ),
]
"""Networks beside the built-in ones with their usual arguments, whose contract asks for the same."""


def test_twenty_sound_exports():
    assert len(SOUND) + len(EXPORTED) >= 20


def data_of(kind: str, folder: Path) -> DataRef:
    if kind == "colours":
        return toy_data(folder, classes=3, channels=3, size=32, train=30, test=40)
    return toy_tokens(folder, train=60)


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [pytest.param(*one, marks=pytest.mark.slow, id=f"{one[0]}-{one[1]}-{number}") for number, one in enumerate(SOUND)],
)
def test_what_is_sound_passes(tmp_path, kind: str, name: str, arguments: dict[str, object]):
    (tmp_path / "data").mkdir()
    data = data_of(kind, tmp_path / "data")
    test = read_test(data)
    network = with_different_answers(made(name, data, **arguments), test, data)
    export(network, data, test, CONFIG, {}, tmp_path, temperature=1.7)
    told = json.loads((tmp_path / "parity.json").read_text())
    for form in (told, told["bare"]):
        assert form["passed"] and all(gate["passed"] for gate in form["gates"])
