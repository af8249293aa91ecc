"""The two forms of a model: complete, which refuses what it cannot read, and bare, which other runtimes take."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.slow import slow_but
from tests.toy import made, toy_data, toy_numbers, toy_tokens, with_different_answers
from torchmill.components.data.samples import read_test
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.export import export
from torchmill.components.export.other_runtime import BATCHES, by_openvino
from torchmill.components.export.to_onnx import export_core, to_onnx, write_bare
from torchmill.components.onnx_graph.pictures import MOST_VALUES
from torchmill.components.onnx_model.bare import standardized
from torchmill.components.onnx_model.model import open_model
from torchmill.components.onnx_model.run import as_taken
from torchmill.components.onnx_model.session import open_session
from torchmill.components.refs import DataRef

NOT_IN_BARE = {"If", "Loop", "Scan", "Resize", "CastLike", "Constant"}
SMALL = {
    "images": ("instance_norm_cnn", {"widths": (8, 16)}),
    "tokens": ("transformer", {"width": 16, "heads": 2, "layers": 1, "feedforward": 16}),
    "numbers": ("mlp", {}),
}


def data_of(kind: str, folder: Path) -> DataRef:
    makers = {"images": lambda path: toy_data(path, channels=3, size=24, train=60, test=30)}
    return {**makers, "tokens": toy_tokens, "numbers": toy_numbers}[kind](folder)


@pytest.fixture(scope="module", params=SMALL)
def both(request, tmp_path_factory) -> Iterator[tuple[DataRef, Path]]:
    """A data set, and a folder with both forms of a network for it."""
    folder = tmp_path_factory.mktemp(request.param)
    data = data_of(request.param, folder)
    name, arguments = SMALL[request.param]
    network = with_different_answers(made(name, data, **arguments), read_test(data), data)
    export(network, data, read_test(data), ExportConfig(batch_sizes=(7,)), {}, folder, temperature=1.5)
    yield data, folder


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes(attribute.g)


def test_both_forms_are_plain_files_that_old_runtimes_open(both):
    _, folder = both
    for name in ("model.onnx", "model.bare.onnx"):
        proto = onnx.load(folder / name)
        onnx.checker.check_model(proto, full_check=True)  # also refuses unsorted nodes
        assert proto.ir_version <= 9 and not proto.functions
        operators = [node.op_type for node in nodes(proto.graph)]
        assert not {"CastLike", "Constant", "Resize", "Loop"} & set(operators) and operators.count("If") <= 1
        assert {opset.domain for opset in proto.opset_import} == {""}
    types = {value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert not NOT_IN_BARE & set(operators)


def test_the_rules_that_make_tokens_are_in_the_metadata(tmp_path):
    data = data_of("tokens", tmp_path)
    name, arguments = SMALL["tokens"]
    write_bare(export_core(made(name, data, **arguments), data), data, {}, tmp_path / "bare.onnx")
    (entry,) = (e for e in onnx.load(tmp_path / "bare.onnx").metadata_props if e.key == "tokenization")
    rules = json.loads(entry.value)
    assert rules.pop("max_length") == data.shape[0] and (rules.pop("padding"), rules.pop("unknown")) == (0, 1)
    assert rules == {"normalization": "NFC", "spaces": "single", "lower_case": False, "pattern": "."}


def test_nodes_are_named_by_their_modules(both):
    data, folder = both
    named = {node.name for node in onnx.load(folder / "model.bare.onnx").graph.node}
    module = {"images": "blocks.0.convolution", "tokens": "layers.0", "numbers": "layers"}[data.kind]
    assert any(name.startswith(module) and "/" in name for name in named)


def test_a_bare_model_answers_as_the_complete_one(both):
    data, folder = both
    inputs = as_taken(read_test(data).inputs[:20])
    complete, bare = (open_model(folder / name) for name in ("model.onnx", "model.bare.onnx"))
    assert bare.is_bare and not complete.is_bare and bare.labels == complete.labels
    np.testing.assert_allclose(bare.answers(inputs), complete.answers(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["complete", "bare"])
def test_one_form_alone_is_written_and_answers(tmp_path, form):
    data = data_of("images", tmp_path)
    network = with_different_answers(made("mlp", data), read_test(data), data)
    ref = export(network, data, read_test(data), ExportConfig(batch_sizes=(7,), form=form), {}, tmp_path)
    name = {"complete": "model.onnx", "bare": "model.bare.onnx"}[form]
    assert ref.onnx.path.name == name and ref.bare is None
    assert [path.name for path in tmp_path.glob("*.onnx")] == [name]
    assert open_model(tmp_path / name).answers(read_test(data).inputs[:3].numpy()).shape == (3, 10)


@pytest.mark.parametrize("kind", slow_but(("tokens", "numbers"), SMALL))
def test_a_bare_model_of_a_fixed_batch_has_no_free_sizes(tmp_path, kind):
    data = data_of(kind, tmp_path)
    name, arguments = SMALL[kind]
    network = with_different_answers(made(name, data, **arguments), read_test(data), data)
    export(network, data, read_test(data), ExportConfig(batch_sizes=(7,), batch=4, opset=18), {}, tmp_path)
    proto = onnx.load(tmp_path / "model.bare.onnx")
    assert proto.opset_import[0].version == 18
    for value in (*proto.graph.input, *proto.graph.output):
        assert all(side.dim_value for side in value.type.tensor_type.shape.dim)
    inputs = as_taken(read_test(data).inputs[:10])  # three batches of four, the last filled up
    complete, bare = (open_model(tmp_path / name) for name in ("model.onnx", "model.bare.onnx"))
    np.testing.assert_allclose(bare.answers(inputs), complete.answers(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", slow_but((17, 22), range(17, 23)))
def test_a_bare_model_has_the_opset_that_is_asked_for(tmp_path, opset):
    data = data_of("numbers", tmp_path)
    write_bare(export_core(made("mlp", data), data, opset=opset), data, {}, tmp_path / "bare.onnx")
    assert onnx.load(tmp_path / "bare.onnx").opset_import[0].version == opset
    assert open_session(tmp_path / "bare.onnx").run(None, {"features": np.zeros((3, 6), np.float32)})[0].shape == (3, 3)


@pytest.fixture(scope="module", params=[1, 3])
def pictures(request, tmp_path_factory) -> Path:
    data = toy_data(tmp_path_factory.mktemp("pictures"), channels=request.param, size=28, train=4, test=2)
    path = data.folder / "model.onnx"
    to_onnx(made("mlp", data), data, {}, path)
    return path


UNREADABLE = {
    "either layout": (8, 1, 28, 4),
    "neither layout": (2, 30, 30, 2),
    "no rows": (1, 0, 9, 3),
    "no columns": (1, 3, 9, 0),
    "too large": (2, MOST_VALUES // 6 + 1, 3, 1),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_pixels_that_cannot_be_read_are_refused_in_words(pictures, case):
    with pytest.raises(Exception, match=r"pixels must be \(N, height, width, channels\) or \(N, channels, height"):
        open_session(pictures).run(None, {"pixels": np.zeros(UNREADABLE[case], np.uint8)})


def test_pixels_of_the_trained_sides_are_read_in_either_layout(tmp_path):
    data = toy_data(tmp_path, channels=3, size=4, train=4, test=2)
    to_onnx(made("simple_cnn", data), data, {}, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx")
    pixels = read_test(data).inputs.numpy()
    first, last = (session.run(["logits"], {"pixels": p})[0] for p in (pixels, pixels.transpose(0, 2, 3, 1).copy()))
    assert np.array_equal(first, last)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_in_words(tmp_path, value):
    data = toy_numbers(tmp_path, task="regression")
    to_onnx(made("mlp", data), data, {}, tmp_path / "model.onnx")
    features = np.zeros((5, 6), np.float32)
    session = open_session(tmp_path / "model.onnx")
    session.run(None, {"features": features})
    features[3, 2] = value
    with pytest.raises(Exception, match="features must be finite numbers"):
        session.run(None, {"features": features})


def test_logits_that_are_no_numbers_get_no_label(toy, trained, tmp_path):
    trained.fc2.bias.data[3] = np.nan
    to_onnx(trained, toy, {}, tmp_path / "model.onnx")
    labels, index = open_session(tmp_path / "model.onnx").run(
        ["labels", "index"], {"pixels": np.zeros((2, 28, 28, 1), np.uint8)}
    )
    assert labels.tolist() == ["", ""] and index.tolist() == [-1, -1]


def test_openvino_gives_the_same_answers_while_batches_grow(both):
    pytest.importorskip("openvino", reason="the extra 'gates' is not installed")
    data, folder = both
    proto = onnx.load(folder / "model.onnx")
    inputs = as_taken(read_test(data).inputs[: max(BATCHES)])
    expected = open_session(folder / "model.onnx").run(["logits"], {proto.graph.input[0].name: inputs})[0]
    for outputs in by_openvino(folder / "model.onnx", {proto.graph.input[0].name: inputs}):
        np.testing.assert_allclose(outputs["logits"], expected[: len(outputs["logits"])], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", slow_but([(31, 57)], [(40, 30), (31, 57), (24, 24), (90, 70)]))
@pytest.mark.parametrize("both", ["images"], indirect=True)
def test_openvino_takes_pictures_of_any_size(both, size):
    pytest.importorskip("openvino", reason="the extra 'gates' is not installed")
    _, folder = both
    large = np.random.default_rng(0).integers(0, 256, (4, *size, 4), dtype=np.uint8)
    expected = open_session(folder / "model.onnx").run(["logits"], {"pixels": large})[0]
    for outputs in by_openvino(folder / "model.onnx", {"pixels": large}, (1, 3, 4)):
        np.testing.assert_allclose(outputs["logits"], expected[: len(outputs["logits"])], rtol=1e-2, atol=1e-2)


def test_the_metadata_says_how_to_prepare_pixels(toy, trained, toy_test, tmp_path):
    write_bare(export_core(trained, toy), toy, {}, tmp_path / "bare.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(tmp_path / "bare.onnx").metadata_props}
    assert metadata["form"] == "bare" and json.loads(metadata["mean"]) == list(toy.mean)
    assert metadata["layout"] == "NCHW" and metadata["resampling"].endswith("ImageOps.fit of Pillow")
    assert metadata["input"] == "float32 (batch, 1, 28, 28), grey: (pixels / 255 - mean) / std"
    assert metadata["output"] == "logits, float32 (batch, 10); probabilities are the softmax of logits / temperature"
    images = standardized(toy_test.inputs[:9].numpy(), metadata)
    assert images.dtype == np.float32 and abs(images.mean()) < 0.1


@pytest.mark.parametrize("batch", slow_but((11, 40), (1, 11, 40)))
def test_a_bare_model_alone_may_have_any_fixed_batch(batch: int, toy, trained, toy_test, tmp_path):
    ref = export(trained, toy, toy_test.first(37), ExportConfig(form="bare", batch=batch), {}, tmp_path)
    with np.load(ref.example.path) as example:
        assert example["images"].shape == (batch, 1, 28, 28) and example["logits"].shape == (batch, 10)
        (logits,) = open_session(ref.onnx.path).run(["logits"], {"images": example["images"]})
        assert np.array_equal(logits, example["logits"])
