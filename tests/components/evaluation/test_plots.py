import dataclasses
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from torchmill.components.errors import UserError
from torchmill.components.evaluation.plots import draw_curves, draw_layers
from torchmill.components.metrics.plots import draw_confusion, draw_labels, draw_targets
from torchmill.components.metrics.scores import ClassScore
from torchmill.components.training.progress import EpochResult

EPOCH = EpochResult(
    epoch=1,
    measure="accuracy",
    train_loss=2.0,
    train_score=0.3,
    validation_loss=1.8,
    validation_score=0.4,
    lr=0.1,
    samples_per_second=1.0,
    is_best=True,
    is_last=False,
)


def drawn(path) -> np.ndarray:
    """Pixels from 0 to 1; there is something on them."""
    picture = imread(path)[:, :, :3]
    assert picture.min() < 0.5 and picture.max() == 1
    return picture


@pytest.mark.parametrize("classes", [1, 2, 10, 26, 100])
def test_a_confusion_of_any_number_of_classes_is_drawn(tmp_path, classes):
    confusion = np.eye(classes, dtype=np.int64) * 5
    draw_confusion(confusion, [f"class {label}" for label in range(classes)], tmp_path / "c.png")
    assert drawn(tmp_path / "c.png").shape[0] > 200


def test_a_mistake_is_seen(tmp_path):
    right, wrong = np.eye(4, dtype=np.int64) * 50, np.eye(4, dtype=np.int64) * 50
    wrong[0] = wrong[0][[1, 0, 2, 3]]
    for name, confusion in (("right", right), ("wrong", wrong)):
        draw_confusion(confusion, "abcd", tmp_path / f"{name}.png")
    assert np.abs(drawn(tmp_path / "right.png") - drawn(tmp_path / "wrong.png")).max() > 0.5


def test_a_rare_class_is_as_dark_as_a_common_one(tmp_path):
    confusion = np.diag([1000, 1])
    draw_confusion(confusion, "ab", tmp_path / "c.png")
    picture = drawn(tmp_path / "c.png")
    dark = np.array([8, 48, 107]) / 255  # the dark end of Blues
    columns = np.flatnonzero((np.abs(picture - dark).max(2) < 0.02).sum(0) > 20)
    assert np.diff(columns).max(initial=0) <= 2 + picture.shape[1] // 10 and len(columns) > picture.shape[1] // 3


def test_a_class_without_samples_is_drawn(tmp_path):
    draw_confusion(np.diag([3, 0]), "ab", tmp_path / "c.png")
    drawn(tmp_path / "c.png")


@pytest.mark.parametrize("name", ["50 %", "$x_1$", "a_b", "名", "<&>"])
def test_the_names_of_classes_may_be_anything(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(np.eye(2, dtype=np.int64), [name, "b"], tmp_path / "c.png")
    drawn(tmp_path / "c.png")


@pytest.mark.parametrize("epochs", [1, 2, 30])
def test_curves_of_any_length_are_drawn(tmp_path, epochs):
    history = [
        dataclasses.replace(EPOCH, epoch=epoch + 1, train_loss=2.0 / (epoch + 1), is_best=epoch % 2 == 0)
        for epoch in range(epochs)
    ]
    draw_curves(history, tmp_path / "curves.png")
    height, width, _ = drawn(tmp_path / "curves.png").shape
    assert width > 2 * height


def test_a_picture_appears_whole_or_not_at_all(tmp_path, small_disk):
    with small_disk(1000), pytest.raises(UserError, match="Cannot write"):
        draw_confusion(np.eye(10, dtype=np.int64), "0123456789", tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_font_does_not_have_are_numbers_and_nothing_is_warned_of(tmp_path):
    names = ["grün", "蓝", "costs $5 or $6"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number, classes in enumerate((names, ["grün", "class 1", names[2]])):
            draw_confusion(np.eye(3, dtype=np.int64), classes, tmp_path / f"{number}.png")
        draw_labels([ClassScore(0.5, 0.5, 0.5, 3, 3)] * 3, names, tmp_path / "labels.png")
        draw_targets(np.random.rand(5, 3), np.random.rand(5, 3), names, tmp_path / "targets.png")
    assert np.array_equal(drawn(tmp_path / "0.png"), drawn(tmp_path / "1.png"))


def test_a_network_without_layers_to_fill_is_drawn(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_layers([], tmp_path / "layers.png")
    assert (tmp_path / "layers.png").stat().st_size > 1000
