import numpy as np
import pytest
import torch
from torch import nn

from tests.toy import toy_numbers, toy_tokens
from torchmill.components.initialization.standardized_model import StandardizedModel


def test_pixels_are_standardized_as_by_numpy_in_float64():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 3, 4, 6), np.uint8)
    mean, std = [0.1, 0.5, 0.9], [0.2, 0.01, 0.4]
    outputs = StandardizedModel(nn.Identity(), mean, std)(torch.from_numpy(pixels)).numpy()
    expected = (pixels / 255 - np.reshape(mean, (1, 3, 1, 1))) / np.reshape(std, (1, 3, 1, 1))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-5)


def test_the_training_pixels_get_mean_0_and_deviation_1(toy):
    pixels = np.load(toy.folder / "train_inputs.npy")
    images = StandardizedModel.of(nn.Identity(), toy)(torch.from_numpy(pixels)).double()
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_a_constant_channel_is_only_centered():
    pixels = torch.full((2, 1, 3, 3), 51, dtype=torch.uint8)
    assert torch.equal(StandardizedModel(nn.Identity(), [0.2], [0.0])(pixels), torch.zeros(2, 1, 3, 3))


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_as_set_and_changes_no_value(channels_last):
    pixels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = StandardizedModel(nn.Identity(), [0.1] * 3, [0.2] * 3, channels_last)(pixels)
    assert images.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert torch.equal(images, StandardizedModel(nn.Identity(), [0.1] * 3, [0.2] * 3)(pixels))


def test_it_returns_the_networks_dtype_and_has_no_further_weights():
    model = StandardizedModel(nn.Linear(3, 2), [0.5], [0.5])
    assert {name.partition(".")[0] for name, _ in model.named_parameters()} == {"network"}
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    assert model(pixels).dtype == torch.float32
    assert model.double()(pixels).dtype == torch.float64


def test_the_network_gets_token_ids_unchanged(tmp_path):
    data = toy_tokens(tmp_path)
    model = StandardizedModel.of(nn.Identity(), data)
    tokens = torch.tensor([[2, 3, 0]], dtype=torch.int32)
    assert model(tokens).dtype == model.double()(tokens).dtype == torch.int64 and model(tokens).tolist() == [[2, 3, 0]]


def test_numbers_are_standardized_by_feature(tmp_path):
    data = toy_numbers(tmp_path)
    inputs = np.load(data.folder / "train_inputs.npy")
    outputs = StandardizedModel.of(nn.Identity(), data)(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(outputs.mean(0), np.zeros(6), atol=1e-4)
    np.testing.assert_allclose(outputs.std(0), np.ones(6), atol=1e-4)


def test_series_are_standardized_by_feature_over_time(tmp_path):
    data = toy_numbers(tmp_path, features=2).model_copy(update={"shape": (2, 5)})
    values = torch.ones(3, 2, 5)
    outputs = StandardizedModel.of(nn.Identity(), data)(values)
    for feature in range(2):
        expected = (1 - data.mean[feature]) / data.std[feature]
        torch.testing.assert_close(outputs[:, feature], torch.full((3, 5), expected))


def test_outputs_are_in_the_targets_units_except_for_training(tmp_path):
    data = toy_numbers(tmp_path, task="regression", outputs=2, scales=(1e-3, 1e4))
    network = nn.Linear(6, 2)
    nn.init.zeros_(network.weight)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([0.0, 1.0]))
    inputs = torch.from_numpy(np.load(data.folder / "test_inputs.npy")[:1])
    assert StandardizedModel.of(network, data, in_units=False)(inputs).tolist() == [[0.0, 1.0]]
    expected = [data.target_mean[0], data.target_mean[1] + data.target_std[1]]
    np.testing.assert_allclose(StandardizedModel.of(network, data)(inputs).detach().numpy()[0], expected, rtol=1e-5)
