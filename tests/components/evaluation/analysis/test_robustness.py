import pytest
import torch

from torchmill.components.data.samples import Samples
from torchmill.components.evaluation.analysis.robustness import CHANGES, changed, some


@pytest.fixture
def images() -> Samples:
    chance = torch.Generator().manual_seed(0)
    return Samples(torch.randint(0, 256, (300, 1, 9, 7), generator=chance).to(torch.uint8), torch.arange(300) % 3)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_changes_pixels_and_is_the_same_each_time(images, name):
    before = images.inputs.clone()
    after = changed(images, name)
    assert after.inputs.dtype == torch.uint8 and after.inputs.shape == images.inputs.shape
    assert torch.equal(after.labels, images.labels)
    assert not torch.equal(after.inputs, images.inputs)
    assert torch.equal(after.inputs, changed(images, name).inputs)
    assert torch.equal(before, images.inputs)


@pytest.mark.parametrize(("name", "pixels"), [("moved by 1 pixel", 1), ("moved by 2 pixels", 2)])
def test_images_are_moved_in_all_eight_directions_by_so_many_pixels(images, name, pixels):
    after, ways = changed(images, name).inputs, set()
    inner = after[:, :, pixels:-pixels, pixels:-pixels]
    for moved, image in zip(inner, images.inputs, strict=True):
        found = [
            (y, x)
            for y in (0, pixels, 2 * pixels)
            for x in (0, pixels, 2 * pixels)
            if torch.equal(moved, image[:, y : y + moved.shape[1], x : x + moved.shape[2]])
        ]
        assert len(found) == 1
        ways.add(found[0])
    assert len(ways) == 8 and (pixels, pixels) not in ways


def test_brightness_and_contrast_and_noise_are_what_their_names_say():
    grey = Samples(torch.full((50, 1, 8, 8), 100, dtype=torch.uint8), torch.zeros(50, dtype=torch.int64))
    assert (changed(grey, "darker, × 0.6").inputs == 60).all()
    assert (changed(grey, "half the contrast").inputs == 100).all()
    noisy = changed(grey, "noise, 5 % of the range").inputs.float()
    assert noisy.std() == pytest.approx(0.05 * 255, rel=0.05) and noisy.mean() == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("samples", "count"), [(40, 40), (900, 500), (10_000, 1250), (50_000, 2000)])
def test_large_splits_are_sampled(samples, count):
    test = Samples(torch.zeros(samples, 1, 1, 1, dtype=torch.uint8), torch.arange(samples))
    chosen = some(test)
    assert len(chosen) == len(chosen.labels.unique()) == count


@pytest.mark.parametrize(("side", "count"), [(64, 400), (160, 180), (224, 100)])
def test_of_large_images_fewer_are_changed(side, count):
    test = Samples(torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(400, 3, side, side), torch.arange(400))
    assert len(some(test)) == count
