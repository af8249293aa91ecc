"""An ONNX file is checked before it is loaded, and its faults are reported in words."""

import json
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from tests.onnx_files import bag_of_letters, linear
from torchmill.components.errors import UserError
from torchmill.components.onnx_model.model import open_model

EYE = np.eye(16, 3)


def complaint(file: Path) -> str:
    before = file.stat() if file.is_file() else None
    with pytest.raises(UserError) as raised:
        open_model(file)
    assert before is None or file.stat().st_mtime_ns == before.st_mtime_ns
    return str(raised.value)


def changed(file: Path, change) -> Path:
    proto = onnx.load(file, load_external_data=False)
    change(proto)
    file.write_bytes(proto.SerializeToString())
    return file


def test_what_it_takes_and_gives_is_read_from_the_file(tmp_path: Path):
    model = open_model(linear(tmp_path / "a.onnx", EYE))
    assert (model.kind, model.task, model.shape) == ("images", "classification", (1, 4, 4))
    given = model.answers(np.full((5, 1, 4, 4), 200, np.uint8))
    assert given.shape == (5, 3) and np.allclose(given.sum(1), 1)
    several = open_model(linear(tmp_path / "b.onnx", EYE, output="float32 logits (batch, 3); above 0 is yes"))
    assert several.task == "multilabel"
    assert several.answers(np.zeros((1, 1, 4, 4), np.uint8)).tolist() == [[0.5, 0.5, 0.5]]
    values = open_model(linear(tmp_path / "c.onnx", EYE, takes="features", gives="values", sizes=(16,)))
    assert (values.kind, values.task) == ("numbers", "regression")
    texts = open_model(bag_of_letters(tmp_path / "d.onnx", "ab", np.eye(2), ["a", "b"]))
    assert texts.kind == "tokens" and texts.vocabulary.max_length == 12


def test_what_the_file_says_of_itself_counts(tmp_path: Path):
    said = {"kind": "images", "task": "multilabel", "shape": "[1, 4, 4]", "temperature": "2.0"}
    model = open_model(linear(tmp_path / "a.onnx", EYE, sizes=("c", "h", "w"), **said))
    assert (model.task, model.shape, model.temperature) == ("multilabel", (1, 4, 4), 2.0)
    logits = np.array([[2.0, 0, -2]])
    assert model.probabilities(logits)[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert "does not say of which" in complaint(linear(tmp_path / "b.onnx", EYE, sizes=("c", "h", "w")))


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x0a", b"PK\x03\x04" * 100])
def test_what_is_no_onnx_file_is_told(tmp_path: Path, content: bytes):
    (tmp_path / "a.onnx").write_bytes(content)
    assert "is not an ONNX file" in complaint(tmp_path / "a.onnx")


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path):
    linear(tmp_path / "model.onnx", EYE)
    assert "Did you mean model.onnx?" in complaint(tmp_path / "modell.onnx")
    assert "Cannot read" in complaint(tmp_path)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname", "sub/../../secret", "link"])
def test_weights_outside_of_the_folder_are_not_read(tmp_path: Path, place: str):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(192))
    (folder / "link").symlink_to(tmp_path / "secret")

    def outside(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    told = complaint(changed(linear(folder / "a.onnx", EYE), outside))
    assert f"'{place}', which is outside of its folder" in told


def test_weights_that_were_not_copied_along_are_told(tmp_path: Path):
    file = linear(tmp_path / "a.onnx", EYE)
    onnx.save_model(onnx.load(file), file, save_as_external_data=True, location="a.data", size_threshold=0)
    assert open_model(file).answers(np.zeros((1, 1, 4, 4), np.uint8)).shape == (1, 3)
    (tmp_path / "a.data").unlink()
    assert "'a.data', which is not beside it" in complaint(file)


def test_a_tensor_that_says_to_be_huge_is_not_made(tmp_path: Path):
    def huge(proto: onnx.ModelProto) -> None:
        proto.graph.initializer[0].dims[:] = [100_000, 100_000]

    assert "says to have 40,000,000,000 bytes, and has 192" in complaint(
        changed(linear(tmp_path / "a.onnx", EYE), huge)
    )

    def huge_elsewhere(proto: onnx.ModelProto) -> None:
        huge(proto)
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="a.data")

    (tmp_path / "a.data").write_bytes(b"little")
    told = complaint(changed(linear(tmp_path / "b.onnx", EYE), huge_elsewhere))
    assert "has weights of 40.0 GB" in told and "are free" in told


def test_a_tensor_that_is_made_of_one_number_is_counted_before_it_is_made(tmp_path: Path):
    def swollen(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([300_000, 300_000]), "sides"))
        proto.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["sides"], ["swollen"]))

    told = complaint(changed(linear(tmp_path / "a.onnx", EYE), swollen))
    assert "makes a tensor 'swollen' of 360.0 GB" in told and "are free" in told


def test_a_file_that_memory_does_not_take_is_told_before_it_is_read(tmp_path: Path, monkeypatch):
    with (tmp_path / "a.onnx").open("wb") as file:
        file.truncate(psutil.virtual_memory().total)  # a hole: it takes no room
    assert "of memory" in complaint(tmp_path / "a.onnx")


def test_a_model_that_was_exported_by_others_is_told(tmp_path: Path):
    def renamed(proto: onnx.ModelProto) -> None:
        proto.graph.input[0].name = proto.graph.node[0].input[0] = "x"

    assert "does not say how raw inputs become that" in complaint(changed(linear(tmp_path / "a.onnx", EYE), renamed))
    assert "labels" in complaint(linear(tmp_path / "b.onnx", EYE, labels=["one", "two"]))
    del_vocabulary = bag_of_letters(tmp_path / "c.onnx", "ab", np.eye(2), ["a", "b"], vocabulary=json.dumps({}))
    with pytest.raises(UserError, match="no vocabulary"):
        _ = open_model(del_vocabulary).vocabulary
