"""The contact sheet explains its red frames and its names."""

import numpy as np
import pytest
from PIL import Image

from tests.toy import written
from torchmill.components.data.inspection import contact_sheet


@pytest.fixture
def sheet(tmp_path):
    """Draw a sheet of six pictures of two classes with these names."""

    def draw(classes: tuple[str, str], suspects: list[int]) -> Image.Image:
        images, labels = np.zeros((6, 1, 8, 8), np.uint8), np.arange(6) % 2
        splits = {"train": (images, labels), "test": (images, labels)}
        data = written(tmp_path, splits, shape=(1, 8, 8), classes=classes, mean=(0.5,), std=(0.3,))
        contact_sheet.draw(data, images, labels, np.arange(6), suspects, None, tmp_path)
        return Image.open(tmp_path / "samples.png").convert("RGB")

    return draw


def test_red_frames_are_explained_if_there_are_any(sheet):
    plain, doubtful = sheet(("a", "b"), []), sheet(("a", "b"), [1])
    row = contact_sheet.CELL + contact_sheet.GAP
    assert doubtful.height == plain.height + row + 24
    explained = np.asarray(doubtful.crop((0, doubtful.height - 24, doubtful.width, doubtful.height)))
    assert (explained[..., 0].astype(int) - explained[..., 1] > 90).sum() > 100


def test_names_that_the_font_does_not_have_are_numbers(sheet):
    assert sheet(("a", "蓝"), [1]).tobytes() == sheet(("a", "class 1"), [1]).tobytes()
    assert sheet(("a", "grün"), []).tobytes() != sheet(("a", "class 1"), []).tobytes()
