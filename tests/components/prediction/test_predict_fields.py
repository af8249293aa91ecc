"""Predictions of models for tasks over named fields."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.toy_fields import own_data
from torchmill.components.batches.field_refs import FieldRef
from torchmill.components.data.field_samples import read_fields
from torchmill.components.errors import UserError
from torchmill.components.export.config import ExportConfig
from torchmill.components.export.field_export import export_fields
from torchmill.components.initialization.build import build
from torchmill.components.onnx_model.session import open_session
from torchmill.components.prediction.field_drift import likeness_of
from torchmill.components.prediction.predict_fields import is_of_fields, predict_fields


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scans")
    data = own_data(folder, "scans", "segmentation")
    torch.manual_seed(0)
    network = build("unet", {"width": 4, "depth": 1}, data)
    return export_fields(network, data, read_fields(data, "test"), ExportConfig(batch_sizes=(4,)), {}, folder).onnx.path


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    data = own_data(folder, "pairs", "Distance")
    network = build(f"{folder}/own.py:Both", {}, data).eval()
    return export_fields(network, data, read_fields(data, "test"), ExportConfig(batch_sizes=(4,)), {}, folder).onnx.path


def test_pictures_get_masks_of_their_own_size(segmenter, tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"wide": (40, 20), "square": (24, 24)}
    (tmp_path / "photos").mkdir()
    for name, size in sizes.items():
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)).save(
            tmp_path / f"photos/{name}.png"
        )
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    assert is_of_fields(segmenter)
    done = predict_fields(segmenter, [tmp_path / "photos"], tmp_path / "answers.npz")
    assert (done.answered, done.unreadable) == (2, 1) and done.masks
    with np.load(done.output) as answers:
        assert [file.rpartition("/")[2] for file in answers["file"]] == ["square.png", "wide.png"]
        assert answers["mask"].shape == (2, 12, 12) and answers["probabilities"].shape == (2, 2, 12, 12)
        square = answers["mask"][0]
    masks = {path.stem.partition("-")[2]: np.array(Image.open(path)) for path in done.masks.iterdir()}
    assert {name: mask.shape[::-1] for name, mask in masks.items()} == sizes
    assert (masks["square"] == square.repeat(2, 0).repeat(2, 1)).all()
    assert (masks["wide"][:, :10] == 255).all() and (masks["wide"][:, -10:] == 255).all()  # cut off before


def test_arrays_by_name_are_answered_in_batches(pairs, tmp_path):
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(150, 6)) for name in ("left", "right")}
    np.savez(tmp_path / "inputs.npz", **inputs)
    done = predict_fields(pairs, [tmp_path / "inputs.npz"], tmp_path / "answers.npz")
    session = open_session(pairs)
    (expected,) = session.run(None, {name: values.astype(np.float32) for name, values in inputs.items()})
    with np.load(done.output) as answers:
        np.testing.assert_allclose(answers["distance"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"left": np.zeros((3, 6))}, "no array 'right' (it has left)"),
        ({"left": np.zeros((3, 5)), "right": np.zeros((3, 6))}, "'left' has the shape (3, 5), not (N, 6)"),
        ({"left": np.zeros((3, 6)), "right": np.zeros((4, 6))}, "different numbers of samples: left 3, right 4"),
        (
            {"left": np.full((3, 6), np.nan), "right": np.zeros((3, 6))},
            "'left' holds values that are no finite numbers",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_told(pairs, tmp_path, arrays, words):
    np.savez(tmp_path / "inputs.npz", **arrays)
    with pytest.raises(UserError) as error:
        predict_fields(pairs, [tmp_path / "inputs.npz"], tmp_path / "answers.npz")
    assert words in str(error.value) and not (tmp_path / "answers.npz").exists()


def test_other_places_and_endings_are_told(pairs, segmenter, tmp_path):
    (tmp_path / "inputs.npz").write_bytes(b"nothing")
    np.save(tmp_path / "one.npy", np.zeros((2, 6)))
    for model, place, output, words in (
        (pairs, "inputs.npz", "answers.npz", "is no file of arrays"),
        (pairs, "inpts.npz", "answers.npz", "Did you mean inputs.npz"),
        (pairs, "one.npy", "answers.npz", "is one array, and the model takes left, right"),
        (pairs, "inputs.npz", "answers.csv", "Give --output FILE.npz"),
        (pairs, ".", "answers.npz", "not pictures alone"),
        (segmenter, ".", "answers.npz", "There are no pictures in"),
    ):
        with pytest.raises(UserError) as error:
            predict_fields(model, [tmp_path / place], tmp_path / output)
        assert words in str(error.value)


def test_inputs_unlike_those_of_training_are_told(pairs, tmp_path):
    left, right = np.random.default_rng(1).normal(size=(2, 80, 6))  # as the data itself is made
    alike = {"left": left, "right": right + 3}
    np.savez(tmp_path / "alike.npz", **alike)
    done = predict_fields(pairs, [tmp_path / "alike.npz"], tmp_path / "answers.npz")
    assert not done.likeness.is_far and done.likeness.words.startswith("like the training inputs: the mean of '")
    alike["right"][:, 4] += 5
    np.savez(tmp_path / "other.npz", **alike)
    done = predict_fields(pairs, [tmp_path / "other.npz"], tmp_path / "answers.npz")
    assert done.likeness.is_far and done.likeness.words.startswith("the mean of 'right' 4 is ")
    note = json.loads(done.drift.read_text())
    assert done.drift == tmp_path / "answers.drift.json" and note["samples"] == 80
    assert note["fields"]["right"]["shift"][4] == pytest.approx(5, abs=0.6)


def test_of_ragged_samples_the_padding_is_no_input():
    values = np.zeros((2, 3, 2), np.float32)
    values[0, :3], values[1, :1] = [2.0, 4.0], [2.0, 4.0]
    field = FieldRef(
        name="x", file="x", kind="values", shape=(3, 2), dtype="float32", ragged=True, mean=(2.0, 4.0), std=(1.0, 1.0)
    )
    likeness = likeness_of([field], {"x": values, "lengths": np.array([3, 1])})
    assert likeness.note["fields"]["x"]["mean"] == [2.0, 4.0] and not likeness.is_far
