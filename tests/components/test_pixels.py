import numpy as np
import pytest
import torch
from torch import nn

from components.pixels import PixelClassifier


def test_pixels_are_normalised_as_by_numpy_in_float64():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 3, 4, 6), np.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.01, 0.4]
    got = PixelClassifier(nn.Identity(), mean, std)(torch.from_numpy(pixels)).numpy()
    expected = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_the_training_pixels_become_of_mean_0_and_deviation_1(toy):
    pixels = np.load(toy.folder / "train_images.npy")
    images = PixelClassifier(nn.Identity(), toy.mean, toy.std)(torch.from_numpy(pixels)).double()
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_a_channel_without_spread_is_only_centred():
    pixels = torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)
    assert torch.equal(PixelClassifier(nn.Identity(), [0.2], [0.0])(pixels), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_what_was_asked_for_and_changes_no_number(channels_last):
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = PixelClassifier(nn.Identity(), [0.1] * 3, [0.2] * 3, channels_last)(pixels)
    assert images.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert torch.equal(images, PixelClassifier(nn.Identity(), [0.1] * 3, [0.2] * 3)(pixels))


def test_it_gives_the_networks_dtype_and_has_no_weights_of_its_own():
    model = PixelClassifier(nn.Linear(3, 2), [0.5], [0.5])
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"network"}
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    assert model(pixels).dtype == torch.float32
    assert model.double()(pixels).dtype == torch.float64
